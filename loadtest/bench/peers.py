"""How a peer does the same: huey on SQLite with fsync, its results stored, two processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..contestant import ROOT
from ..exits import Unusable
from .arena import SERVERS, arena
from .figures import Figures
from .measures import Plan, saturated, wait_for

INTAKE = ("loadtest.bench.peer",)
CONSUMER = "import sys; from huey.bin.huey_consumer import consumer_main; sys.exit(consumer_main())"
STOP_LIMIT = 20.0  # seconds


def check() -> None:
    if find_spec("huey") is None:
        raise Unusable("huey is missing: start with `make bench PEERS=1`, which installs it.")


def steps(plan: Plan, figures: Figures, folder: Path) -> list[tuple[str, Callable[[], None]]]:
    return [
        ("huey: accept", lambda: accept(plan, figures, folder / f"accept-{time.monotonic_ns()}.db")),
        ("huey: drain", lambda: figures.add("peer drain", drain(plan, folder / f"drain-{time.monotonic_ns()}.db"))),
    ]


def accept(plan: Plan, figures: Figures, file: Path) -> None:
    with arena(*INTAKE, PEER_FILE=str(file)) as it:
        figures.add("peer accept", saturated(it, plan).rate)


def drain(plan: Plan, file: Path) -> float:
    """Jobs per second, between the first tenth of the jobs and the last."""
    os.environ["PEER_FILE"] = str(file)
    queue = enqueued(plan.drained)
    marks: list[tuple[float, int]] = []

    def left() -> int:
        marks.append((time.monotonic(), queue.pending_count()))
        return marks[-1][1]

    with consumer(file):
        wait_for(lambda: left() <= 0.9 * plan.drained, "huey has done a tenth of the jobs")
        (then, before) = marks[-1]
        wait_for(lambda: left() <= 0.1 * plan.drained, "huey has done nine tenths of the jobs")
        (now, after) = marks[-1]
    return (before - after) / (now - then)


def enqueued(jobs: int) -> Any:
    from huey import SqliteHuey

    queue = SqliteHuey(name="huey", filename=os.environ["PEER_FILE"], fsync=False)  # only the filling of it

    def noop(job_id: Any = None) -> Any:
        return job_id

    noop.__module__ = "loadtest.bench.peer"
    task = queue.task()(noop)
    for _ in range(jobs):
        task(job_id=7)
    return queue


@contextmanager
def consumer(file: Path) -> Iterator[None]:
    arguments = ["loadtest.bench.peer.huey", "-k", "process", "-w", str(SERVERS), "-d", "0.01", "-m", "0.1", "-q"]
    environment = os.environ | {"PEER_FILE": str(file), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", CONSUMER, *arguments], env=environment, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
