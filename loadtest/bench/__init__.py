"""`make bench`: every figure, against what it is measured, side by side in one run."""

import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
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
    Option("curves", "", yes, "1: instead, how each cost grows up to a million queued and ten million ended jobs"),
    Option("out", "var/bench", output_folder, "folder for bench.json, bench.png and bench.html"),
)


def main(values: dict[str, Any]) -> Exit:
    from . import picture

    picture.check()
    # Where the results go, is a disk; the system's folder may be memory, where an fsync costs nothing.
    tempfile.tempdir = str(Path(values["out"]).resolve())
    return grow(Path(values["out"])) if values["curves"] else compare(values)


def grow(out: Path) -> Exit:
    from . import curves, picture

    found: dict[str, list[curves.Point]] = {}
    for state, sizes in curves.CURVES:
        for point in curves.curve(state, sizes):
            found.setdefault(state, []).append(point)
            print(f"{point.jobs:,} jobs {state}: put {point.costs['put']:,.0f} microseconds", flush=True)
    tables = [curves.table(state, found[state]) for state, _ in curves.CURVES]
    text = json.dumps({state: [point._asdict() for point in points] for state, points in found.items()}, indent=1)
    (out / "curves.json").write_text(text + "\n", encoding="utf-8")
    print("", *map(aligned, tables), curves.CAPTION, sep="\n\n", flush=True)
    picture.draw_curves(found, tables, out)
    print(f"in {out}/: curves.json, curves.png, curves.html", flush=True)
    return Exit.OK


def compare(values: dict[str, Any]) -> Exit:
    from service.linux import cores, run_at_once  # only here: a load test needs nothing of the server

    from . import figures, measures, peers, picture, wrk

    began = time.monotonic()
    wrk.check()
    if values["peers"]:
        peers.check()
    plan = measures.QUICK if values["quick"] else measures.FULL
    found = figures.Figures(datetime.now(UTC).date().isoformat(), cores(), figures.versions(), plan.queued, plan.rounds)
    with ThreadPoolExecutor(1) as thread:  # in this one, the measures would be in real time too
        found.real_time = thread.submit(run_at_once).result()
    for step in measures.measure(plan, found, [peers.steps] if values["peers"] else []):
        print(f"{time.monotonic() - began:5.0f} s  {step}", flush=True)
    found.took = round(time.monotonic() - began, 1)
    out = Path(values["out"])
    found.save(out / "bench.json")
    print("", *map(aligned, figures.tables(found)), figures.head(found), sep="\n\n", flush=True)
    picture.draw(found, out)
    print(f"in {out}/: bench.json, bench.png, bench.html", flush=True)
    return Exit.OK
