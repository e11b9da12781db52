"""An online copy of the backlog, and the way back. `python -m service backup FILE`, `restore FILE`.

A copy holds all that was accepted before it began. What was running in it is queued again when it is restored:
whoever held it then is gone."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from service.backlog.presence import Presence
from service.backlog.store import SCHEMA_VERSION, damage_mark
from service.errors import ConfigError


def store(backlog: str) -> Path:
    """The file of `sqlite:path`. Raises ConfigError."""
    scheme, _, path = backlog.partition(":")
    if scheme != "sqlite":
        raise ConfigError(f"BACKLOG is {backlog}: only sqlite:path can be copied")
    return Path(path).absolute()


def backup(backlog: str, target: Path, reserve: int) -> int:
    """Copy the store while it is used; returns the number of jobs in the copy. Raises ConfigError, also where the
    copy would take what `reserve` bytes are to be left of its disk."""
    source, unfinished = store(backlog), target.with_name(f".{target.name}.unfinished")
    if not source.exists():
        raise ConfigError(f"there is no backlog at {source}")
    if target.exists():
        raise ConfigError(f"{target} is there already: choose another name")
    with told(f"{source} cannot be copied to {target}"), removed_after(unfinished):
        leave_room(source, target.parent, reserve)
        jobs = snapshot(source, unfinished)
        unfinished.rename(target)
        flush(target.parent)
    return jobs


def restore(backlog: str, copy: Path) -> tuple[int, Path | None]:
    """Put a copy in the store's place; returns the number of its jobs, and where what was there before is now.
    Raises ConfigError, and then the store is as it was."""
    target, before = store(backlog), None
    new = target.with_name(f".{target.name}.new")
    if not copy.exists():
        raise ConfigError(f"there is no file {copy}")
    with told(f"{copy} cannot be restored to {target}"), removed_after(new):
        target.parent.mkdir(parents=True, exist_ok=True)
        jobs = snapshot(copy, new)
        with alone(target):
            if Presence(target.parent / "workers").living():
                raise ConfigError("a server uses this backlog: stop it first, with `make down`")
            if target.exists():
                before = keep(target)
            new.rename(target)
            flush(target.parent)
            damage_mark(target).unlink(missing_ok=True)
    return jobs, before


def snapshot(source: Path, target: Path) -> int:
    """One consistent state of a store, checked and flushed; who writes meanwhile is not held up. Returns its jobs."""
    reader = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READWRITE)
    reader.execute("VACUUM INTO ?", (str(target),))
    reader.close()
    target.chmod(0o600)  # arguments and results are in it
    db = apsw.Connection(str(target))
    verdict, version = db.pragma("integrity_check"), db.pragma("user_version")
    if verdict != "ok":
        raise ConfigError(f"{source} is damaged: {verdict}")
    if not 1 <= version <= SCHEMA_VERSION:
        raise ConfigError(f"{source} has schema {version}, this release knows 1 to {SCHEMA_VERSION}")
    db.execute("UPDATE workers SET lease_until = 0")  # in a copy nobody lives: the first sweep queues what they held
    jobs: int = db.execute("SELECT count(*) FROM jobs").get
    db.close()
    flush(target)
    return jobs


def keep(file: Path) -> Path:
    """A second name for what is there, so that there is a store at every moment."""
    with suppress(apsw.Error):  # damaged: then its log is kept beside it
        old = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        old.close()
    aside = file.with_name(f"{file.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    for tail in ("-wal", ""):
        if Path(f"{file}{tail}").exists():
            os.link(f"{file}{tail}", f"{aside}{tail}")
    flush(file.parent)
    for tail in ("-wal", "-shm"):  # of the old file; the new one must not be read with them
        Path(f"{file}{tail}").unlink(missing_ok=True)
    return aside


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """No producer writes meanwhile, also none that has just been born."""
    fd = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def told(what: str) -> Iterator[None]:
    try:
        yield
    except (apsw.Error, OSError) as error:
        raise ConfigError(f"{what}: {error}") from None


@contextmanager
def removed_after(file: Path) -> Iterator[None]:
    file.unlink(missing_ok=True)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def leave_room(source: Path, folder: Path, reserve: int) -> None:
    size = sum(Path(f"{source}{tail}").stat().st_size for tail in ("", "-wal") if Path(f"{source}{tail}").exists())
    it = os.statvfs(folder)
    if it.f_bavail * it.f_frsize - size < reserve:
        raise ConfigError(f"the copy may take {size} bytes, and would leave less than DISK_RESERVE free in {folder}")


def flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
