"""The file of the SQLite engine: opened and brought up to date, written in batches behind a fair lock, read; damage is
remembered. What is in it is `sqlite`'s.

A `202` waits for the COMMIT of its batch, and with synchronous=FULL that COMMIT waits for the flush of the
write-ahead log.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw

from service import linux
from service.backlog import sql
from service.backlog.base import UNBOUNDED, Bounds
from service.backlog.disk import Disk, refuse_network
from service.backlog.presence import Presence
from service.errors import ConfigError, StoreBroken, StoreBusy, StoreCorrupt, StoreFull
from service.job import State

# SQLite 3.7.0 to 3.51.2 can corrupt a WAL file when one connection writes while another checkpoints, which is what
# producers do: https://sqlite.org/wal.html#walresetbug
OLDEST_SQLITE = (3, 51, 3)
SCHEMA_VERSION = 5
WAL_KEPT = 16 << 20  # bytes of write-ahead log that stay on disk, when a reader that made it grow has gone
OPEN_TIMEOUT = 1.0  # seconds
BUSY_TIMEOUT = 1000  # milliseconds that a foreign lock, a person's shell for instance, is waited for

CORRUPT = (apsw.CorruptError, apsw.NotADBError)


def damage_mark(file: Path) -> Path:
    """There when the store was found damaged."""
    return Path(f"{file}.damaged")


class Store:
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
        db = apsw.Connection(str(file), statementcachesize=sql.STATEMENTS)
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
        now = {"boot": self._boot, "clock": self._clock(), "now": self._wall()}
        if not self._db.execute(sql.EPOCH, now).get:
            with self._db:
                for statement in sql.AFTER_REBOOT:
                    self._db.execute(statement, now)
        self._epoch = float(self._db.execute(sql.EPOCH, now).get)

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

    def _read(self, statement: str, *values: Any) -> Any:
        """All rows; `values` are in order, or one mapping by name."""
        named = len(values) == 1 and isinstance(values[0], dict)
        try:
            return self._reader.execute(statement, values[0] if named else values).fetchall()
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
