"""An online copy of the backlog, and the way back. `python -m service backup FILE`, `restore FILE`.

A copy holds all that was accepted before it began. What was running in it is queued again when it is restored:
whoever held it then is gone."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import apsw

from service import linux
from service.backlog.presence import Presence
from service.backlog.sqlite import SCHEMA_VERSION, SqliteBacklog
from service.errors import ConfigError


def store(backlog: str) -> Path:
    """The file of `sqlite:path`. Raises ConfigError."""
    scheme, _, path = backlog.partition(":")
    if scheme != "sqlite":
        raise ConfigError(f"BACKLOG is {backlog}: only sqlite:path can be copied")
    return Path(path).absolute()


def backup(backlog: str, target: Path) -> int:
    """Copy the store while it is used; returns the number of jobs in the copy. Raises ConfigError."""
    source, unfinished = store(backlog), target.with_name(f".{target.name}.unfinished")
    if not source.exists():
        raise ConfigError(f"there is no backlog at {source}")
    if target.exists():
        raise ConfigError(f"{target} is there already: choose another name")
    unfinished.unlink(missing_ok=True)
    try:
        reader = apsw.Connection(str(source))
        reader.execute("VACUUM INTO ?", (str(unfinished),))  # one snapshot; who writes is not held up
        reader.close()
        jobs = check(unfinished)
        flush(unfinished)
        unfinished.rename(target)
        flush(target.parent)
    except (apsw.Error, OSError) as error:
        raise ConfigError(f"{source} cannot be copied to {target}: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return jobs


def restore(backlog: str, copy: Path) -> tuple[int, Path | None]:
    """Put a copy in the store's place; returns the number of its jobs, and where what was there before is now.
    Raises ConfigError, and then nothing has changed."""
    target = store(backlog)
    if not copy.exists():
        raise ConfigError(f"there is no file {copy}")
    jobs = check(copy)
    target.parent.mkdir(parents=True, exist_ok=True)
    if Presence(target.parent / "workers").living():
        raise ConfigError("a server uses this backlog: stop it first, with `make down`")
    new = target.with_name(f"{target.name}.new")
    shutil.copyfile(copy, new)
    flush(new)
    before = set_aside(target)
    new.rename(target)
    flush(target.parent)
    opened = SqliteBacklog(str(target))
    for worker in opened.holders():
        opened.leave(worker)
    opened.close()
    return jobs, before


def check(file: Path) -> int:
    """The number of jobs in it. Raises ConfigError when it is damaged, or of another release."""
    try:
        db = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        verdict, version = db.pragma("integrity_check"), db.pragma("user_version")
        jobs: int = db.execute("SELECT count(*) FROM jobs").get
        db.close()
    except apsw.Error as error:
        raise ConfigError(f"{file} is no backlog, or damaged: {error}") from None
    if verdict != "ok":
        raise ConfigError(f"{file} is damaged: {verdict}")
    if version > SCHEMA_VERSION:
        raise ConfigError(f"{file} has schema {version}, this release knows up to {SCHEMA_VERSION}")
    return jobs


def set_aside(file: Path) -> Path | None:
    """Keep what was there, with what had not been checkpointed."""
    if not file.exists():
        return None
    aside = file.with_name(f"{file.name}.{time.strftime('%Y%m%d-%H%M%S')}-{linux.boot_id()[:4]}")
    for tail in ("", "-wal", "-shm"):
        part = Path(f"{file}{tail}")
        if part.exists():
            part.rename(f"{aside}{tail}")
    return aside


def flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
