"""Creates and revokes API keys. `python -m service key NAME --scopes submit,read`, `key --revoke ID`.

The keys of the client NAME are NAME-1 and NAME-2: two, so that the new one can be brought to every place before the
old one is revoked. The secret is told once and kept nowhere.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import ConfigError
from service.keys import SCOPES, digest, parse, parse_line

SECRET_BYTES = 32
KEYS_PER_CLIENT = 2
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def create(file: Path, name: str, scopes: str) -> str:
    """A new key of this client; returns `id.secret`, what goes behind `Bearer`. Raises ConfigError."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be a client's name: use up to 64 letters, digits, - and _")
    granted, secret = known(scopes), secrets.token_urlsafe(SECRET_BYTES)
    with alone(file):
        text = file.read_text("utf-8") if file.exists() else ""
        id = free_id(name, set(parse(text, file)))
        head = text if not text or text.endswith("\n") else text + "\n"
        replace(file, f"{head}{id} {digest(secret).hex()} {granted}\n")
    return f"{id}.{secret}"


def known(scopes: str) -> str:
    """Without blanks, in their order. Raises ConfigError."""
    asked = {scope.strip() for scope in scopes.split(",")}
    if unknown := sorted(asked - set(SCOPES)):
        raise ConfigError(f"there is no scope {unknown[0]!r}: use some of {','.join(SCOPES)}")
    return ",".join(scope for scope in SCOPES if scope in asked)


def free_id(name: str, taken: set[str]) -> str:
    ids = [f"{name}-{number}" for number in range(1, KEYS_PER_CLIENT + 1)]
    for id in ids:
        if id not in taken:
            return id
    raise ConfigError(f"{name} has {KEYS_PER_CLIENT} keys already: revoke {' or '.join(ids)} first")


def revoke(file: Path, id: str) -> None:
    """Take this key's line out of the file. Raises ConfigError."""
    with alone(file):
        text = file.read_text("utf-8")
        if id not in parse(text, file):
            raise ConfigError(f"there is no key {id} in {file}")
        replace(file, "".join(line for line in text.splitlines(keepends=True) if not is_of(line, id)))


def is_of(line: str, id: str) -> bool:
    key = parse_line(line.partition("#")[0].strip())
    return key is not None and key.id == id


def replace(file: Path, text: str) -> None:
    """At once and on disk. The file stays its owner's, who is not always us; and a link to it stays a link."""
    file = file.resolve()
    fd, new = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # with mode 0600
    with removed_after(Path(new)):
        with os.fdopen(fd, "w", encoding="utf-8") as out:
            keep_owner(file, fd)
            out.write(text)
            out.flush()
            os.fsync(fd)
        Path(new).replace(file)
    with opened(file.parent) as folder:
        os.fsync(folder)


def keep_owner(file: Path, fd: int) -> None:
    if file.exists() and (it := file.stat()).st_uid != os.geteuid():
        os.fchown(fd, it.st_uid, it.st_gid)


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Of two commands at once, one would take the other's key out again. Raises ConfigError for what the system
    refuses meanwhile."""
    try:
        folder = file.resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        with opened(folder) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not a text") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be changed: {error.strerror}") from None


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def removed_after(file: Path) -> Iterator[None]:
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
