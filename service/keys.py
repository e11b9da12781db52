"""Who may do what: API keys and their scopes, read from a file that may change while we serve.

A line is `id sha256 scopes`, for instance `shop-1 9f86…0a08 submit,read`; `#` begins a comment. A client shows
`Authorization: Bearer id.secret`. The file has only the SHA-256 of the secret: it is 32 random bytes, so there is
nothing to guess, and a slow hash would protect nothing. `service/keyfile.py` writes the file.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from service.errors import ConfigError

log = logging.getLogger(__name__)

SUBMIT, READ, ADMIN = "submit", "read", "admin"
SCOPES = (SUBMIT, READ, ADMIN)

AGAIN = 0.5  # seconds before a file that is damaged or gone is looked at again: not with every request

LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,79})\s+([0-9a-f]{64})\s+([a-z,]+)")


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    digest: bytes
    scopes: frozenset[str]

    @property
    def client(self) -> str:
        """Whose key it is: NAME-1 and NAME-2 are both NAME's."""
        name, _, number = self.id.rpartition("-")
        return name if name and number.isdecimal() else self.id

    def may(self, scope: str) -> bool:
        return scope in self.scopes or ADMIN in self.scopes


NOBODY = Key("", secrets.token_bytes(32), frozenset())  # an unknown id is compared with this: it takes as long


class Keys:
    """The keys of one file, as it was when it was last good."""

    def __init__(self, file: Path) -> None:
        """Raises ConfigError when the file cannot be read."""
        self._file = file
        self._version = version(file)
        self._keys = read(file)
        self._trouble, self._again = "", 0.0

    def find(self, authorization: str) -> Key | None:
        """The key that this header proves. A wrong id takes as long as a wrong secret."""
        self.refresh()
        scheme, _, token = authorization.partition(" ")
        id, _, secret = token.strip().rpartition(".")
        key = self._keys.get(id, NOBODY)
        proven = hmac.compare_digest(digest(secret), key.digest)
        return key if proven and scheme.lower() == "bearer" else None

    def refresh(self) -> None:
        """Read the file again if it has changed. One that is not good now changes nothing, and is told once."""
        if time.monotonic() < self._again:
            return
        try:
            seen = version(self._file)  # older than what is read, or a change in between would go unnoticed
            if seen != self._version:
                self._keys = read(self._file)
                self._version = seen
                log.info("the API keys are read anew: %d", len(self._keys))
            self._trouble = ""
        except ConfigError as error:
            if str(error) != self._trouble:
                log.error("%s; the keys of before hold", error)
            self._trouble, self._again = str(error), time.monotonic() + AGAIN


def open_keys(file: str) -> Keys | None:
    """The keys of API_KEYS_FILE; None where it is not set. Raises ConfigError."""
    return Keys(Path(file)) if file else None


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def version(file: Path) -> tuple[int, ...]:
    """Another one whenever the file has been written or replaced. Raises ConfigError."""
    try:
        it = file.stat()
    except OSError as error:
        raise unreadable(file, error) from None
    return it.st_ino, it.st_mtime_ns, it.st_size


def read(file: Path) -> dict[str, Key]:
    """The keys by id. Raises ConfigError, which never quotes the content."""
    try:
        if not file.is_file():  # a pipe would be waited for
            raise ConfigError(f"API_KEYS_FILE is {file}, which is not a file")
        return parse(file.read_text("utf-8"), file)
    except OSError as error:
        raise unreadable(file, error) from None
    except UnicodeDecodeError:
        raise ConfigError(f"API_KEYS_FILE is {file}, which is not a text") from None


def unreadable(file: Path, error: OSError) -> ConfigError:
    return ConfigError(f"API_KEYS_FILE is {file}, which cannot be read: {error.strerror}")


def parse(text: str, file: Path) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (words := line.partition("#")[0].strip()):
            continue
        key = parse_line(words)
        if key is None or key.id in keys:
            wrong = "is not `id sha256 scopes`" if key is None else "has the id of another line"
            raise ConfigError(f"API_KEYS_FILE is {file}: line {number} {wrong}")
        keys[key.id] = key
    return keys


def parse_line(line: str) -> Key | None:
    found = LINE.fullmatch(line)
    scopes = frozenset(found[3].split(",")) if found else frozenset()
    if found is None or not scopes <= set(SCOPES):
        return None
    return Key(found[1], bytes.fromhex(found[2]), scopes)
