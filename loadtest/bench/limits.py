"""What the parts can do alone: SQLite, and a process pool."""

import sqlite3
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from service.linux import cores

from .store import a_job

ROWS = 50  # in one commit: what comes together when 64 clients wait
COLUMNS = "seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT, args TEXT, state TEXT, priority INTEGER, "
COLUMNS += "timeout REAL, attempts INTEGER, created_at REAL, run_at REAL"
INSERT = "INSERT INTO jobs (id, name, args, state, priority, timeout, attempts, created_at, run_at)"
INSERT += " VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?)"
AHEAD = 16  # calls that wait in the pool, so that no worker waits for us


def inserts(folder: Path, rows: int, batch: int) -> float:
    """Rows per second that `executemany` gets on disk: one table that finds a job by its id, the same durability."""
    with sqlite3.connect(folder / f"plain-{time.monotonic_ns()}.db", isolation_level=None) as db:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            db.execute(f"PRAGMA {pragma}")
        db.execute(f"CREATE TABLE jobs ({COLUMNS})")
        began = time.monotonic()
        for left in range(rows, 0, -batch):
            db.execute("BEGIN")
            db.executemany(INSERT, [row() for _ in range(min(batch, left))])
            db.execute("COMMIT")
        return rows / (time.monotonic() - began)


def row() -> tuple[object, ...]:
    job, now = a_job(), time.time()
    return job.id, job.name, job.args.decode(), job.priority, job.timeout, job.attempts, now, now


def nothing() -> None:
    """Not one of `jobs`: to import those would register them in this process."""


def pool_calls(seconds: float) -> float:
    """Calls per second of a function that does nothing, in a ProcessPoolExecutor with a worker per core."""
    pending: deque[Future[object]] = deque()
    with ProcessPoolExecutor(cores(), mp_context=get_context("forkserver")) as pool:
        pool.submit(nothing).result()
        began, done = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            pending.append(pool.submit(nothing))
            if len(pending) > AHEAD:
                pending.popleft().result()
                done += 1
        rate = done / (time.monotonic() - began)
        for future in pending:
            future.result()
        return rate
