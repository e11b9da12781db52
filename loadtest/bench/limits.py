"""What the parts can do alone: SQLite, and a process pool."""

import sqlite3
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

from service.backlog import open_backlog
from service.linux import cores

from .store import a_job

ROWS = 50  # in one commit: what comes together when 64 clients wait
TABLE = "seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT, args TEXT, state TEXT, priority INTEGER, "
TABLE += "timeout REAL, attempts INTEGER, created_at REAL, run_at REAL, rank REAL"
INSERT = "INSERT INTO jobs (id, name, args, state, priority, timeout, attempts, created_at, run_at, rank)"
INSERT += " VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?)"
AHEAD = 16  # calls that wait in the pool, so that no worker waits for us


def inserts(folder: Path, rows: int, batch: int) -> float:
    """Rows per second that `executemany` gets on disk: one table that finds a job by its id, and nothing more."""
    return executemany(folder / f"plain-{time.monotonic_ns()}.db", f"CREATE TABLE jobs ({TABLE})", rows, batch)


def same_rows(folder: Path, rows: int, batch: int) -> float:
    """The same into the table that the product has, which also finds what is to be claimed next."""
    file = folder / f"same-{time.monotonic_ns()}.db"
    open_backlog(f"sqlite:{file}").close()
    return executemany(file, "", rows, batch)


def executemany(file: Path, schema: str, rows: int, batch: int) -> float:
    values = [row() for _ in range(rows)]
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", schema):
            db.execute(statement)
        began = time.monotonic()
        for start in range(0, rows, batch):
            db.execute("BEGIN")
            db.executemany(INSERT, values[start : start + batch])
            db.execute("COMMIT")
        return rows / (time.monotonic() - began)


def row() -> tuple[object, ...]:
    job, now = a_job(), time.time()
    return job.id, job.name, job.args.decode(), job.priority, job.timeout, job.attempts, now, now, now


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
