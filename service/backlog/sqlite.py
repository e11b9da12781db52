"""The durable default: one SQLite file that every producer on this machine shares, also those in other containers.

Every transition is one guarded statement. A `202` waits for the COMMIT of its batch, and with synchronous=FULL
that COMMIT waits for the flush of the write-ahead log.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw

from service import linux
from service.backlog import sql
from service.backlog.base import KEY_KEPT, UNBOUNDED, Backlog, Bounds
from service.backlog.disk import Disk, refuse_network
from service.backlog.presence import Presence
from service.errors import BacklogFull, ConfigError, StoreBroken, StoreBusy, StoreCorrupt, StoreError, StoreFull
from service.job import Claim, Job, Receipt, Record, Running, Settlement, State

# SQLite 3.7.0 to 3.51.2 can corrupt a WAL file when one connection writes while another checkpoints, which is what
# producers do: https://sqlite.org/wal.html#walresetbug
OLDEST_SQLITE = (3, 51, 3)
SCHEMA_VERSION = 2
WAL_KEPT = 16 << 20  # bytes of write-ahead log that stay on disk, when a reader that made it grow has gone
BITE = 200  # ended jobs removed in one commit; a few milliseconds, so that intake never waits for more
OPEN_TIMEOUT = 1.0  # seconds
LATE = 1.0  # seconds for which a worker that was late believes others to be late too: they ask again meanwhile
BUSY_TIMEOUT = 1000  # milliseconds that a foreign lock, a person's shell for instance, is waited for


CORRUPT = (apsw.CorruptError, apsw.NotADBError)


def damage_mark(file: Path) -> Path:
    """There when the store was found damaged."""
    return Path(f"{file}.damaged")


class SqliteBacklog(Backlog):
    durability = "fsync"

    def __init__(
        self,
        path: str,
        clock: Callable[[], float] = linux.clock,
        wall: Callable[[], float] = time.time,
        bounds: Bounds = UNBOUNDED,
    ) -> None:
        """Open the file, or make it. After the fork: a connection carried across one corrupts the file.
        Raises ConfigError, or StoreBusy while somebody else has it locked."""
        version = apsw.sqlite_lib_version()
        if tuple(map(int, version.split("."))) < OLDEST_SQLITE:
            raise ConfigError(f"SQLite {version} can corrupt a shared file: use 3.51.3 or newer")
        self._clock, self._wall, self._boot = clock, wall, linux.boot_id()
        self._changes: Counter[str] = Counter()
        file = Path(path).absolute()
        self._bounds, self._file = bounds, file
        self._late = -math.inf  # when our own lease had ended before we renewed it
        self._presence = Presence(file.parent / "workers")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            refuse_network(file.parent)
            self._disk = Disk(file, bounds.disk_reserve)
            self._lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
            self._open()
        except (OSError, apsw.Error) as error:
            raise ConfigError(f"BACKLOG is sqlite:{path}, which cannot be opened: {error}") from error

    def _open(self) -> None:
        if damage_mark(self._file).exists():
            raise ConfigError(
                f"the backlog {self._file} was found damaged: `make restore` a copy, or, when you know better, "
                f"remove {damage_mark(self._file)}"
            )
        try:
            with self._locked(OPEN_TIMEOUT):
                self._db = self._connect(self._file)
                self._prepare()
            self._reader = self._connect(self._file)
            self._inode = self._file.stat().st_ino
        except BaseException as error:
            os.close(self._lock)  # it may be tried again and again
            if isinstance(error, apsw.BusyError):
                raise StoreBusy(str(error)) from error
            raise

    def _connect(self, file: Path) -> apsw.Connection:
        db = apsw.Connection(str(file))
        db.set_busy_timeout(BUSY_TIMEOUT)
        db.pragma("journal_mode", "wal")
        db.pragma("synchronous", "full")
        db.pragma("journal_size_limit", WAL_KEPT)
        if db.pragma("journal_mode") != "wal" or db.pragma("synchronous") != 2:
            raise ConfigError(f"{file}: SQLite refuses WAL with synchronous=FULL on this file system")
        return db

    def _prepare(self) -> None:
        version = self._db.pragma("user_version")
        if version > SCHEMA_VERSION:
            raise ConfigError(f"the backlog has schema {version}, this release knows up to {SCHEMA_VERSION}")
        steps = [sql.MIGRATIONS[step] for step in range(version, SCHEMA_VERSION)] if version else [sql.SCHEMA]
        if steps:
            with self._db:
                self._db.execute("".join(steps))
                self._db.pragma("user_version", SCHEMA_VERSION)
        # Asked first: an ordinary start has nothing to write, and so need not wait for whoever holds the write lock.
        if self._db.execute(sql.OF_ANOTHER_BOOT, (self._boot,)).get:
            self._db.execute(sql.PROMOTE_AFTER_REBOOT, (self._boot,))

    @contextmanager
    def _locked(self, timeout: float = math.inf) -> Iterator[None]:
        # SQLite's own waiting sleeps and is unfair: p99 of 80 to 1,000 ms with two writers, 21 ms behind this lock.
        if timeout == math.inf:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        else:
            self._lock_within(timeout)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _lock_within(self, timeout: float) -> None:
        """For the start, where waiting without end would be deaf to a stop signal. Raises StoreBusy."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreBusy("somebody else writes without an end") from None
                time.sleep(0.01)

    @contextmanager
    def batch(self) -> Iterator[None]:
        with self._locked():
            try:
                if self._file.stat().st_ino != self._inode:
                    raise StoreBroken("the file was replaced: this producer ends, the next one opens what is there")
                self._db.execute("BEGIN IMMEDIATE")
            except apsw.BusyError as error:
                raise StoreBusy(str(error)) from error
            except CORRUPT as error:
                raise self._damaged(error) from error
            except (OSError, apsw.Error) as error:
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
                    self._disk.release()  # so that what has run can still be recorded
                    raise StoreFull(str(error)) from error
                if isinstance(error, CORRUPT):
                    raise self._damaged(error) from error
                if isinstance(error, apsw.Error):
                    raise StoreBroken(str(error)) from error
                raise

    def _damaged(self, error: BaseException) -> StoreCorrupt:
        """Remembered, so that nothing is accepted after the next start either."""
        with suppress(OSError):
            damage_mark(self._file).touch()
        return StoreCorrupt(str(error))

    def _read(self, statement: str, *values: Any) -> list[Any]:
        try:
            return self._reader.execute(statement, values).fetchall()
        except CORRUPT as error:
            raise self._damaged(error) from error

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

    def put(self, jobs: Sequence[Job]) -> list[Receipt | StoreError]:
        with self._own_batch():
            refusal = self._refusal()
            room = 0 if refusal else self._room()
            receipts: list[Receipt | StoreError] = []
            for job in jobs:
                receipt = self._known(job)
                if receipt is None and room > 0:
                    receipt = self._put(job, self._wall())
                    room -= receipt.new
                receipts.append(receipt or refusal or BacklogFull("there are BACKLOG_MAX queued jobs already"))
            self._moved(sum(isinstance(receipt, Receipt) and receipt.new for receipt in receipts), None, State.QUEUED)
            return receipts

    def _refusal(self) -> StoreFull | None:
        if not self._disk.low():
            return None
        return StoreFull(f"less than DISK_RESERVE={self._bounds.disk_reserve} bytes are free on the disk")

    def _room(self) -> int:
        queued: int = self._db.execute("SELECT n FROM counts WHERE state = 'queued'").get or 0
        return self._bounds.backlog_max - queued - self._changes[State.QUEUED]

    def _known(self, job: Job) -> Receipt | None:
        if job.key is None:
            return None
        row: Any = self._db.execute(sql.KEY, (job.key, self._wall() - KEY_KEPT)).fetchone()
        return Receipt(row[0], new=False, same=row[1] == job.fingerprint) if row else None

    def _put(self, job: Job, now: float) -> Receipt:
        row = (job.id, job.name, job.args.decode(), job.priority, job.timeout, job.attempts, now, now)
        new = self._db.execute(sql.PUT, row).get is not None
        if job.key is not None:
            self._db.execute(sql.KEEP_KEY, (job.key, job.id, job.fingerprint, now))
        return Receipt(job.id, new)

    def claim(self, limit: int, worker: str) -> list[Claim]:
        now = self._wall()
        with self._own_batch():
            rows: list[Any] = self._db.execute(sql.CLAIM, {"worker": worker, "now": now, "limit": limit}).fetchall()
            self._moved(len(rows), State.QUEUED, State.RUNNING)
        rows.sort(key=lambda row: (-row[5], row[10]))  # RETURNING has no order
        return [
            Claim(Job(id, name, args.encode(), timeout, attempts, priority), token, attempt, crashes, losses, now)
            for id, name, args, timeout, attempts, priority, token, attempt, crashes, losses, _ in rows
        ]

    def extend(self, worker: str, lease: float) -> bool:
        if self._presence.fileno() is None:
            self._presence.arrive(worker)
        with self._own_batch():
            until: float | None = self._db.execute("SELECT lease_until FROM workers WHERE worker = ?", (worker,)).get
            if until is not None and until < self._clock():
                self._late = self._clock()
            self._db.execute(
                "INSERT OR REPLACE INTO workers VALUES (?, ?, ?)", (worker, self._boot, self._clock() + lease)
            )
        return until is not None

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
        settled = self._db.execute(sql.SETTLE, values).get is not None
        if settled:
            self._moved(1, State.RUNNING, s.state)
        return settled

    def sweep(self, sweeper: str) -> int:
        now = {"boot": self._boot, "clock": self._clock()}
        with self._own_batch():
            self._db.execute(sql.PROMOTE, now)
            promoted = self._db.changes()
            lost = sum(self._lost(worker, "its producer died") for worker in self._presence.dead())
            expired = [worker for (worker,) in self._db.execute(sql.EXPIRED, now)]
            if sweeper in expired or self._clock() < self._late + LATE:
                expired = []
            lost += sum(self._lost(worker, "its producer hung beyond its lease") for worker in expired)
            return promoted + lost

    def prune(self) -> bool:
        self._disk.restore()
        with self._own_batch():
            kept: int = self._db.execute(sql.ENDED_HERE).get
            excess = max(kept - self._bounds.keep_max, 0)
            values = {
                "before": math.inf if excess else self._wall() - self._bounds.keep,
                "bite": min(excess or BITE, BITE),
            }
            rows: list[Any] = self._db.execute(sql.PRUNE, values).fetchall()
            self._db.execute(sql.PRUNE_KEYS, (self._wall() - KEY_KEPT, BITE))
            keys = self._db.changes()
            for state, _ in rows:
                self._changes[state] -= 1
            if rows:
                self._changes["removed"] += len(rows)
                self._db.execute(sql.MARK_REMOVED, (max(id for _, id in rows),))
        return BITE in (len(rows), keys)

    def leave(self, worker: str) -> None:
        with self._own_batch():
            self._lost(worker, "its producer ended")
        self._presence.leave()

    def _lost(self, worker: str, reason: str) -> int:
        self._db.execute(sql.LOST, {"worker": worker, "reason": reason, "now": self._wall()})
        lost = self._db.changes()
        self._db.execute("DELETE FROM workers WHERE worker = ?", (worker,))
        self._moved(lost, State.RUNNING, State.QUEUED)
        return lost

    def get(self, id: str) -> Record | None:
        rows = self._read(sql.GET, id)
        if not rows:
            return None
        (row,) = rows
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

    def removed(self, id: str) -> bool:
        return (1,) in self._read("SELECT value >= ? FROM marks WHERE name = 'removed'", id)

    def ended(self) -> int:
        ((ended,),) = self._read(sql.ENDED)
        return int(ended)

    def counts(self) -> dict[State, int]:
        rows = self._read("SELECT state, n FROM counts WHERE state <> 'removed'")
        return {state: 0 for state in State} | {State(state): n for state, n in rows}

    def oldest(self) -> float | None:
        oldest: float | None
        ((oldest,),) = self._read(sql.OLDEST)
        return oldest

    def running(self) -> list[Running]:
        rows = self._read(sql.RUNNING)
        return [Running(*row) for row in rows]

    def workers(self) -> list[str]:
        rows = self._read("SELECT worker FROM workers ORDER BY worker")
        return [worker for (worker,) in rows]

    def log_bytes(self) -> int:
        return Path(f"{self._file}-wal").stat().st_size

    def wake_fd(self) -> int | None:
        return self._presence.fileno()

    def wake_others(self) -> None:
        self._presence.wake_others()

    def close(self) -> None:
        self._presence.close()
        self._db.close()
        self._reader.close()
        os.close(self._lock)
