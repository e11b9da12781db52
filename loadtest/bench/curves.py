"""How each cost grows with what is queued, and with what has ended: the engine alone, on one file."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import apsw

from service.backlog import open_backlog
from service.backlog.base import Backlog
from service.job import Settlement, State

from .store import a_job

QUEUED = (0, 1_000, 10_000, 100_000, 1_000_000)
ENDED = (0, 10_000, 100_000, 1_000_000, 10_000_000)
TIMES = 200  # of each, and then the median
BITE = 500_000  # rows in one statement

# Rows as they are after a put, or after a success. Ids in order of time, as ours are, and before all of ours.
FILL = """
INSERT INTO jobs (id, name, args, state, priority, timeout, attempts, attempt, token, rank, created_at, run_at,
                  started_at, finished_at, result, history)
SELECT printf('01800000-%04x-7%03x-8000-%012x', value >> 12, value & 4095, abs(random()) >> 16), 'noop',
       '{"job_id":7}', :state, 0, 60.0, 3, 0, 0, 1700000000.0 + value / 1000.0, 1700000000.0, 1700000000.0,
       NULL, iif(:state = 'queued', NULL, 1700000000.0 + value / 1000.0), '7', '[]'
FROM (WITH RECURSIVE numbers (value) AS (SELECT :first UNION ALL SELECT value + 1 FROM numbers WHERE value < :last)
      SELECT value FROM numbers)
"""
COUNT = "INSERT INTO counts VALUES (?, ?) ON CONFLICT (state) DO UPDATE SET n = n + excluded.n"


CURVES = ((State.QUEUED, QUEUED), (State.SUCCEEDED, ENDED))


CAPTION = (
    f"Medians of {TIMES} calls each, of the engine alone. A put, a claim and a settlement wait for the disk (fsync), "
    "here one by one; a flood shares the wait. What is listed, found or counted waits for nothing."
)


class Point(NamedTuple):
    """What one call costs, in microseconds, with so many jobs there."""

    jobs: int
    costs: dict[str, float]


def curve(state: State, sizes: tuple[int, ...]) -> Iterator[Point]:
    """One file that grows."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file, before = Path(folder) / "backlog.db", 0
        open_backlog(f"sqlite:{file}").close()
        for size in sizes:
            fill(file, state, before, size)
            before = size
            backlog = open_backlog(f"sqlite:{file}")
            yield Point(size, {name: cost(call) for name, call in calls(backlog).items()})
            backlog.close()


def table(state: State, points: list[Point]) -> list[tuple[str, ...]]:
    """A row for each call, a column for each size."""
    head = (f"microseconds, with jobs {state}", *(f"{point.jobs:,}" for point in points))
    rows = [(name, *(f"{point.costs[name]:,.0f}" for point in points)) for name in points[0].costs]
    return [head, *rows]


def read(path: Path) -> list[list[tuple[str, ...]]]:
    """The tables of what was kept as JSON."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return [table(State(state), [Point(**point) for point in points]) for state, points in kept.items()]


def fill(file: Path, state: State, before: int, size: int) -> None:
    db = apsw.Connection(str(file))
    db.pragma("synchronous", "off")  # of the filling only
    for first in range(before, size, BITE):
        last = min(first + BITE, size) - 1
        with db:
            db.execute(FILL, {"state": state, "first": first, "last": last})
            db.execute(COUNT, (state, last - first + 1))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()


def calls(backlog: Backlog) -> dict[str, Callable[[], object]]:
    claimed, known = [], a_job()
    backlog.put([known])

    def claim() -> None:
        backlog.put([a_job()])
        claimed.extend(backlog.claim(1, "bench"))

    def settle() -> None:
        it = claimed.pop()
        backlog.settle([Settlement(it.job.id, it.token, State.SUCCEEDED, 1, 0, b"{}", result=b"7")])

    return {
        "put": lambda: backlog.put([a_job()]),
        "put and claim": claim,
        "settle": settle,
        "list 50": lambda: backlog.page(None, None, None, 50),
        "list, nothing found": lambda: backlog.page(None, "other", None, 50),
        "list 50 failed": lambda: backlog.page(State.FAILED, None, None, 50),
        "get": lambda: backlog.get(known.id),
        "counts": backlog.counts,
        "prune": backlog.prune,
    }


def cost(call: Callable[[], object]) -> float:
    return statistics.median(timed(call) for _ in range(TIMES))


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - began)
