"""Every setting: its environment variable, default, unit and sentence. `python -m service settings` prints them."""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from service.errors import ConfigError

HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
SLOT_MEMORY_MIN = 64 << 20  # bytes; with less, not even an empty slot is sure to start


def setting(default: Any, unit: str, sentence: str, minimum: float | None = None, maximum: float = math.inf) -> Any:
    return field(default=default, metadata={"unit": unit, "sentence": sentence, "minimum": minimum, "maximum": maximum})


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one server. The environment variable of a field is its name in capitals."""

    listen: str = setting(
        "127.0.0.1:8000", "address", "Where the server listens: host:port, or unix:path for a socket file."
    )
    bind: str = setting(
        "127.0.0.1", "address", "Where nginx listens, on PORT; an address that others reach needs API_KEYS_FILE."
    )
    api_keys_file: str = setting(
        "", "file", "Who may do what, see `make key`; if not set, whoever reaches the port may do everything."
    )
    producers: int = setting(
        0, "processes", "Producer processes, at most 1024; 0 is one per core the cgroup allows.", 0, 1024
    )
    jobs: str = setting("service.jobs", "module", "The module whose @job functions can be run.")
    backlog: str = setting(
        "sqlite:var/data/backlog.db",
        "engine",
        "Where jobs wait: sqlite:path, or memory: (one producer, lost at exit).",
    )
    slots: int = setting(20, "slots", "Jobs one producer runs at once, at most 1024.", 1, 1024)
    slot_memory: int = setting(
        0, "bytes", "Memory that each process of a slot may take, at least 64 MiB; 0 is no limit.", 0
    )
    slot_idle: float = setting(30.0, "seconds", "A slot that had nothing to do for this long is ended.", 0.1)
    lease: float = setting(30.0, "seconds", "A producer that hangs for this long loses its jobs.", 1)
    drain: float = setting(
        20.0, "seconds", "At a stop, running jobs get this long; the rest goes back to the backlog.", 0
    )
    backlog_max: int = setting(
        1_000_000, "jobs", "Queued jobs; with so many, new ones are answered 503 until some have run.", 1
    )
    disk_reserve: int = setting(
        64 << 20, "bytes", "With less than this free on the disk, new jobs are answered 507; 0 is no reserve.", 0
    )
    keep: float = setting(
        7 * 86400.0, "seconds", "A job that has ended is kept for so long; then it is answered 410.", 0
    )
    keep_max: int = setting(
        1_000_000,
        "jobs",
        "Ended jobs that are kept; beyond it, the oldest are removed. One whose callback is still to be told stays.",
        0,
    )
    commit_timeout: float = setting(
        5.0, "seconds", "A request that cannot be stored within this time is answered 503.", 0.1
    )
    callback_secret: str = setting(
        "", "secret", "What callbacks are signed with, whsec_ and base64; without one, callbacks are refused."
    )
    callback_hosts: str = setting(
        "", "hosts", "Separated by commas: what callbacks may reach although its address is not a public one."
    )
    body_max: int = setting(
        1 << 20, "bytes", "The largest request body; above 1 MiB raise nginx/limits.conf too.", 1024
    )
    result_max: int = setting(1 << 20, "bytes", "The largest result of a job, as JSON.", 1024)
    log_level: str = setting("info", "level", "debug, info, warning or error.")

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Config:
        """Read the environment. An empty variable counts as unset, since Compose passes those on.

        Raises ConfigError with a sentence that names the variable."""
        given = {f.name: _parse(f, env[f.name.upper()]) for f in fields(cls) if env.get(f.name.upper())}
        config = cls(**given)
        # Whoever sets BIND has nginx before us, and LISTEN where nobody else comes, as Compose does.
        config.refuse_strangers("bind" if "bind" in given else "listen")
        return config

    @property
    def folder(self) -> Path | None:
        """The one that the backlog's file is in; None where there is no file."""
        scheme, _, path = self.backlog.partition(":")
        return Path(path).parent if scheme == "sqlite" else None

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """CALLBACK_HOSTS, in lower case."""
        return frozenset(host.strip().lower() for host in self.callback_hosts.split(",") if host.strip())

    def __post_init__(self) -> None:
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ConfigError(f"LOG_LEVEL is {self.log_level!r}: use debug, info, warning or error")
        scheme, colon, path = self.backlog.partition(":")
        if not colon or scheme not in ("sqlite", "memory") or (scheme == "sqlite") != bool(path):
            raise ConfigError(f"BACKLOG is {self.backlog!r}: use sqlite:path or memory:")
        if scheme == "memory" and self.producers != 1:
            raise ConfigError("BACKLOG=memory: cannot be shared between processes: set PRODUCERS=1 with it")
        if 0 < self.slot_memory < SLOT_MEMORY_MIN:
            raise ConfigError(f"SLOT_MEMORY is {self.slot_memory}: use at least {SLOT_MEMORY_MIN} bytes, or 0")
        for host in self.allowed_hosts:
            if not HOST.fullmatch(host) and not is_address(host):
                raise ConfigError(f"CALLBACK_HOSTS has {host!r}: use names and addresses, without scheme, port or path")
        parse_listen(self.listen)
        parse_secret(self.callback_secret)
        check_bind(self.bind)

    def refuse_strangers(self, place: str) -> None:
        """Raises ConfigError where `place`, bind or listen, lets others reach a server that asks for no key."""
        address: str = getattr(self, place)
        host = address if place == "bind" else parse_listen(address)[0]
        if self.api_keys_file or address.startswith("unix:") or is_loopback(host):
            return
        raise ConfigError(
            f"{place.upper()} is {address}, where others reach the server, and it asks for no key: "
            "create keys with `make key` and set API_KEYS_FILE, or use 127.0.0.1"
        )


def is_address(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it. A name that is not localhost may be anything."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_bind(bind: str) -> None:
    """Addresses only, with the brackets that nginx and Compose want around an IPv6 one. Raises ConfigError."""
    inside = bind[1:-1] if bind.startswith("[") and bind.endswith("]") else bind
    try:
        if ip_address(inside).version == (4 if inside == bind else 6):
            return
    except ValueError:
        pass
    raise ConfigError(f"BIND is {bind!r}: use an address such as 127.0.0.1, 0.0.0.0 or [::1]")


def parse_listen(listen: str) -> tuple[str, int]:
    """(host, port) of `host:port`, or (path, 0) of `unix:path`. Raises ConfigError."""
    host, _, port = listen.rpartition(":")
    if host == "unix" and port:
        return port, 0
    if host in ("", "unix") or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ConfigError(f"LISTEN is {listen!r}: use host:port, for instance 127.0.0.1:8000, or unix:path")
    return host.strip("[]"), int(port)


def parse_secret(secret: str) -> bytes | None:
    """The bytes of whsec_…, as Standard Webhooks has it; None of none. Raises ConfigError, which does not repeat it."""
    if not secret:
        return None
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ConfigError(
            "CALLBACK_SECRET is not whsec_ and the base64 of 24 to 64 bytes: "
            'make one with `echo "whsec_$(openssl rand -base64 32)"`'
        )
    return key


def _parse(field: Field[Any], text: str) -> Any:
    default: Any = field.default
    variable, kind = field.name.upper(), type(default)
    try:
        value = kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{variable} is {text!r}: use {wanted} of {field.metadata['unit']}") from None
    unit, minimum, maximum = (field.metadata[it] for it in ("unit", "minimum", "maximum"))
    if minimum is not None and not minimum <= value < math.inf:
        raise ConfigError(f"{variable} is {text}: use {minimum:g} {unit} or more, and no infinity")
    if minimum is not None and value > maximum:
        raise ConfigError(f"{variable} is {text}: use {maximum:g} {unit} at most")
    return value


def table() -> str:
    """All settings as a Markdown table: the one place where they are documented."""
    rows = [
        f"| `{f.name.upper()}` | {shown(f.default)} | {f.metadata['unit']} | {f.metadata['sentence']} |"
        for f in fields(Config)
    ]
    return "\n".join(["| variable | default | unit | meaning |", "|---|---|---|---|", *rows])


def shown(default: Any) -> str:
    return f"`{default}`" if default != "" else "not set"
