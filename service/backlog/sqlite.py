"""The durable default: one SQLite file that every producer on this machine shares, also those in other containers.

Every transition is one guarded statement. A `202` waits for the COMMIT of its batch, and with synchronous=FULL
that COMMIT waits for the flush of the write-ahead log.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from service import linux
from service.backlog.base import Backlog
from service.backlog.presence import Presence
from service.errors import ConfigError, StoreBroken, StoreBusy, StoreFull
from service.job import HISTORY_MAX, Claim, Job, Record, Running, Settlement, State

# SQLite 3.7.0 to 3.51.2 can corrupt a WAL file when one connection writes while another checkpoints, which is what
# producers do: https://sqlite.org/wal.html#walresetbug
OLDEST_SQLITE = (3, 51, 3)
SCHEMA_VERSION = 1
BUSY_TIMEOUT = 1000  # milliseconds that a foreign lock, a person's shell for instance, is waited for

SCHEMA = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,            -- order of arrival
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    args TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    timeout REAL NOT NULL,
    attempts INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    token INTEGER NOT NULL DEFAULT 0,   -- fencing token: one more with every claim
    worker TEXT,                        -- who holds it, while running
    due_boot TEXT,                      -- a retry waits until `due` on the clock of this boot
    due REAL,
    created_at REAL NOT NULL,
    run_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    result TEXT,
    error TEXT,
    history TEXT NOT NULL DEFAULT '[]'
) STRICT;
-- Partial, so that finished jobs cost claiming nothing.
CREATE INDEX jobs_ready ON jobs (priority DESC, seq) WHERE state = 'queued' AND due_boot IS NULL;
CREATE INDEX jobs_waiting ON jobs (due_boot, due) WHERE due_boot IS NOT NULL;
CREATE INDEX jobs_running ON jobs (worker) WHERE state = 'running';
CREATE TABLE workers (worker TEXT PRIMARY KEY, boot TEXT NOT NULL, lease_until REAL NOT NULL) STRICT;
CREATE TABLE counts (state TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT;
"""

# The history without its oldest line once it is full: a job that is returned again and again must not grow for ever.
KEPT = f"iif(json_array_length(history) >= {HISTORY_MAX}, json_remove(history, '$[0]'), history)"

# The same id again is not a second job.
PUT = """
INSERT INTO jobs (id, name, args, state, priority, timeout, attempts, created_at, run_at)
VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING RETURNING 1
"""

# One statement under the write lock, so two workers can never take the same job.
CLAIM = """
UPDATE jobs SET state = 'running', worker = :worker, attempt = attempt + 1, token = token + 1, started_at = :now
WHERE seq IN (SELECT seq FROM jobs WHERE state = 'queued' AND due_boot IS NULL
              ORDER BY priority DESC, seq LIMIT :limit)
RETURNING id, name, args, timeout, attempts, priority, token, attempt, crashes, seq
"""

# Only the holder of the current token can settle: a late outcome is refused.
SETTLE = f"""
UPDATE jobs SET state = :state, worker = NULL, attempt = :attempt, crashes = :crashes,
    result = :result, error = :error, history = json_insert({KEPT}, '$[#]', json(:entry)),
    run_at = iif(:state = 'queued', :now + :delay, run_at),
    finished_at = iif(:state = 'queued', NULL, :now),
    due_boot = iif(:delay > 0, :boot, NULL), due = iif(:delay > 0, :clock + :delay, NULL)
WHERE id = :id AND state = 'running' AND token = :token
RETURNING 1
"""

# Retries whose time has come.
PROMOTE = "UPDATE jobs SET due_boot = NULL, due = NULL WHERE due_boot = :boot AND due <= :clock"

# The clock only compares within its boot; after a reboot every retry's time has come.
PROMOTE_AFTER_REBOOT = """
UPDATE jobs SET due_boot = NULL, due = NULL WHERE due_boot IS NOT NULL AND due_boot <> ?
"""

EXPIRED = "SELECT worker FROM workers WHERE boot <> :boot OR lease_until < :clock"

# What a worker held when it died is nobody's fault: the attempt does not count.
LOST = f"""
UPDATE jobs SET state = 'queued', worker = NULL, attempt = attempt - 1,
    history = json_insert({KEPT}, '$[#]', json_object(
        'attempt', attempt, 'worker', worker,
        'started_at', strftime('%Y-%m-%dT%H:%M:%fZ', started_at, 'unixepoch'),
        'finished_at', strftime('%Y-%m-%dT%H:%M:%fZ', :now, 'unixepoch'),
        'outcome', 'lost', 'reason', :reason, 'cpu_seconds', NULL))
WHERE worker = :worker AND state = 'running'
"""

GET = """
SELECT id, name, args, timeout, attempts, priority,
       state, attempt, created_at, run_at, started_at, finished_at, result, error, history
FROM jobs WHERE id = ?
"""

# From one priority to the next on the index, and the first of each: a step for each priority in use.
OLDEST = """
WITH RECURSIVE present (priority) AS (
    SELECT (SELECT priority FROM jobs WHERE state = 'queued' AND due_boot IS NULL ORDER BY priority DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT priority FROM jobs WHERE state = 'queued' AND due_boot IS NULL AND priority < present.priority
            ORDER BY priority DESC LIMIT 1)
    FROM present WHERE priority IS NOT NULL
)
SELECT min((SELECT created_at FROM jobs
            WHERE state = 'queued' AND due_boot IS NULL AND priority = present.priority ORDER BY seq LIMIT 1))
FROM present WHERE priority IS NOT NULL
"""

RUNNING = "SELECT worker, id, name, started_at FROM jobs WHERE state = 'running' ORDER BY worker, started_at"


class SqliteBacklog(Backlog):
    durability = "fsync"

    def __init__(
        self, path: str, clock: Callable[[], float] = linux.clock, wall: Callable[[], float] = time.time
    ) -> None:
        """Open the file, or make it. After the fork: a connection carried across one corrupts the file."""
        version = apsw.sqlite_lib_version()
        if tuple(map(int, version.split("."))) < OLDEST_SQLITE:
            raise ConfigError(f"SQLite {version} can corrupt a shared file: use 3.51.3 or newer")
        self._clock, self._wall, self._boot = clock, wall, linux.boot_id()
        self._changes: Counter[str] = Counter()
        file = Path(path).absolute()
        self._presence = Presence(file.parent / "workers")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
            with self._locked():
                self._db = self._connect(file)
                self._prepare()
            self._reader = self._connect(file)
        except (OSError, apsw.Error) as error:
            raise ConfigError(f"BACKLOG is sqlite:{path}, which cannot be opened: {error}") from error

    def _connect(self, file: Path) -> apsw.Connection:
        db = apsw.Connection(str(file))
        db.set_busy_timeout(BUSY_TIMEOUT)
        db.pragma("journal_mode", "wal")
        db.pragma("synchronous", "full")
        if db.pragma("journal_mode") != "wal" or db.pragma("synchronous") != 2:
            raise ConfigError(f"{file}: SQLite refuses WAL with synchronous=FULL on this file system")
        return db

    def _prepare(self) -> None:
        version = self._db.pragma("user_version")
        if version == 0:
            with self._db:
                self._db.execute(SCHEMA)
                self._db.pragma("user_version", SCHEMA_VERSION)
        elif version != SCHEMA_VERSION:
            raise ConfigError(f"the backlog has schema {version}, this release uses {SCHEMA_VERSION}")
        self._db.execute(PROMOTE_AFTER_REBOOT, (self._boot,))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # SQLite's own waiting sleeps and is unfair: p99 of 80 to 1,000 ms with two writers, 21 ms behind this lock.
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    @contextmanager
    def batch(self) -> Iterator[None]:
        with self._locked():
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except apsw.BusyError as error:
                raise StoreBusy(str(error)) from error
            except apsw.Error as error:
                raise StoreBroken(str(error)) from error
            try:
                yield
                self._write_counts()
                self._db.execute("COMMIT")
                self._presence.bury()
            except BaseException as error:
                self._changes.clear()
                self._presence.release()
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, apsw.FullError):
                    raise StoreFull(str(error)) from error
                if isinstance(error, apsw.Error):
                    raise StoreBroken(str(error)) from error
                raise

    @contextmanager
    def _own_batch(self) -> Iterator[None]:
        if self._db.in_transaction:
            yield
        else:
            with self.batch():
                yield

    def _moved(self, count: int, before: State | None, after: State) -> None:
        if before:
            self._changes[before] -= count
        self._changes[after] += count

    def _write_counts(self) -> None:
        changes = [(state, n) for state, n in self._changes.items() if n]
        self._changes.clear()
        self._db.executemany(
            "INSERT INTO counts VALUES (?, ?) ON CONFLICT (state) DO UPDATE SET n = n + excluded.n", changes
        )

    def put(self, jobs: Sequence[Job]) -> list[bool]:
        with self._own_batch():
            receipts = [self._put(job, self._wall()) for job in jobs]
            self._moved(sum(receipts), None, State.QUEUED)
            return receipts

    def _put(self, job: Job, now: float) -> bool:
        row = (job.id, job.name, job.args.decode(), job.priority, job.timeout, job.attempts, now, now)
        return self._db.execute(PUT, row).get is not None

    def claim(self, limit: int, worker: str) -> list[Claim]:
        now = self._wall()
        with self._own_batch():
            rows: list[Any] = self._db.execute(CLAIM, {"worker": worker, "now": now, "limit": limit}).fetchall()
            self._moved(len(rows), State.QUEUED, State.RUNNING)
        rows.sort(key=lambda row: (-row[5], row[9]))  # RETURNING has no order
        return [
            Claim(Job(id, name, args.encode(), timeout, attempts, priority), token, attempt, crashes, now)
            for id, name, args, timeout, attempts, priority, token, attempt, crashes, _ in rows
        ]

    def extend(self, worker: str, lease: float) -> bool:
        if self._presence.fileno() is None:
            self._presence.arrive(worker)
        with self._own_batch():
            kept = self._db.execute("SELECT 1 FROM workers WHERE worker = ?", (worker,)).get is not None
            self._db.execute(
                "INSERT OR REPLACE INTO workers VALUES (?, ?, ?)", (worker, self._boot, self._clock() + lease)
            )
        return kept

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        with self._own_batch():
            return [self._settle(settlement) for settlement in settlements]

    def _settle(self, s: Settlement) -> bool:
        values = {
            "id": s.id,
            "token": s.token,
            "state": s.state,
            "attempt": s.attempt,
            "crashes": s.crashes,
            "result": s.result and s.result.decode(),
            "error": s.error and s.error.decode(),
            "entry": s.entry.decode(),
            "delay": s.delay,
            "now": self._wall(),
            "clock": self._clock(),
            "boot": self._boot,
        }
        settled = self._db.execute(SETTLE, values).get is not None
        if settled:
            self._moved(1, State.RUNNING, s.state)
        return settled

    def sweep(self, sweeper: str) -> int:
        now = {"boot": self._boot, "clock": self._clock()}
        with self._own_batch():
            self._db.execute(PROMOTE, now)
            promoted = self._db.changes()
            lost = sum(self._lost(worker, "its producer died") for worker in self._presence.dead())
            expired = [worker for (worker,) in self._db.execute(EXPIRED, now)]
            if sweeper in expired:
                expired = []
            lost += sum(self._lost(worker, "its producer hung beyond its lease") for worker in expired)
            return promoted + lost

    def leave(self, worker: str) -> None:
        with self._own_batch():
            self._lost(worker, "its producer ended")
        self._presence.leave()

    def _lost(self, worker: str, reason: str) -> int:
        self._db.execute(LOST, {"worker": worker, "reason": reason, "now": self._wall()})
        lost = self._db.changes()
        self._db.execute("DELETE FROM workers WHERE worker = ?", (worker,))
        self._moved(lost, State.RUNNING, State.QUEUED)
        return lost

    def get(self, id: str) -> Record | None:
        row: Any = self._reader.execute(GET, (id,)).fetchone()
        if row is None:
            return None
        id, name, args, timeout, attempts, priority = row[:6]
        state, attempt, created_at, run_at, started_at, finished_at, result, error, history = row[6:]
        return Record(
            Job(id, name, args.encode(), timeout, attempts, priority),
            State(state),
            attempt,
            created_at,
            run_at,
            started_at,
            finished_at,
            result and result.encode(),
            error and error.encode(),
            history.encode(),
        )

    def counts(self) -> dict[State, int]:
        rows: list[Any] = self._reader.execute("SELECT state, n FROM counts").fetchall()
        return {state: 0 for state in State} | {State(state): n for state, n in rows}

    def oldest(self) -> float | None:
        oldest: float | None = self._reader.execute(OLDEST).get
        return oldest

    def running(self) -> list[Running]:
        rows: list[Any] = self._reader.execute(RUNNING).fetchall()
        return [Running(*row) for row in rows]

    def workers(self) -> list[str]:
        rows: list[Any] = self._reader.execute("SELECT worker FROM workers ORDER BY worker").fetchall()
        return [worker for (worker,) in rows]

    def wake_fd(self) -> int | None:
        return self._presence.fileno()

    def wake_others(self) -> None:
        self._presence.wake_others()

    def close(self) -> None:
        self._presence.close()
        self._db.close()
        self._reader.close()
        os.close(self._lock)
