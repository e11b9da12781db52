"""`make bench`: every figure, against what it is measured, side by side in one run."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..exits import Exit
from ..race import aligned
from ..settings import Option, output_folder

HELP = "measure accepts, drain and latency against the limits of the parts: a table, a JSON file, a picture"


def yes(text: str) -> bool:
    if text not in ("", "0", "1"):
        raise ValueError("must be 1 or nothing")
    return text == "1"


OPTIONS: tuple[Option, ...] = (
    Option("quick", "", yes, "1: one short round, in under two minutes"),
    Option("peers", "", yes, "1: huey on SQLite beside it"),
    Option("out", "var/bench", output_folder, "folder for bench.json, bench.png and bench.html"),
)


def main(values: dict[str, Any]) -> Exit:
    from service.linux import cores  # only here: a load test needs nothing of the server

    from . import figures, measures, peers, picture, wrk

    began = time.monotonic()
    picture.check()
    wrk.check()
    if values["peers"]:
        peers.check()
    plan = measures.QUICK if values["quick"] else measures.FULL
    found = figures.Figures(datetime.now(UTC).date().isoformat(), cores(), figures.versions(), plan.queued, plan.rounds)
    for step in measures.measure(plan, found, [peers.steps] if values["peers"] else []):
        print(f"{time.monotonic() - began:5.0f} s  {step}", flush=True)
    found.took = round(time.monotonic() - began, 1)
    out = Path(values["out"])
    found.save(out / "bench.json")
    print("", *map(aligned, figures.tables(found)), figures.head(found), sep="\n\n", flush=True)
    picture.draw(found, out)
    print(f"in {out}/: bench.json, bench.png, bench.html", flush=True)
    return Exit.OK
