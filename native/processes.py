"""supervisord, what it runs, and what a kill of it leaves behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from nginx import nginx_processes
from settings import ROOT, SETTINGS, VAR, environment, fail, say, server_socket, venv


def run_server(number: str) -> NoReturn:
    """What supervisord starts. Its own environment is that of `make up`; a deployment may have brought another."""
    settings = json.loads(SETTINGS.read_text()) | {"LISTEN": f"unix:{server_socket(int(number))}"}
    os.execvpe("python", ["python", "-m", "service", "serve"], settings)


def supervisorctl(*arguments: str) -> bool:
    """Whether it could do what it was asked for."""
    command = [str(venv("supervisorctl")), "-c", f"{ROOT}/native/supervisord.conf", *arguments]
    return subprocess.run(command, env=environment()).returncode == 0


@contextmanager
def alone() -> Iterator[None]:
    """Two deployments at once would stop both servers; two starts would take each other for leftovers."""
    (VAR / "run").mkdir(parents=True, exist_ok=True)
    with (VAR / "run/alone.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail("another make up or make deploy is under way")
        yield


def pid() -> int | None:
    """supervisord's process id, if it runs."""
    with suppress(OSError, ValueError):
        found = int((VAR / "run/supervisord.pid").read_text())
        if is_supervisord(found):
            return found
    return None


def is_supervisord(process: int) -> bool:
    """Not whoever got the number after it."""
    with suppress(OSError):
        return b"supervisord" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def stop_seconds() -> float:
    """How long a server may take to drain: one that runs may have another DRAIN than this shell says."""
    try:
        return float(json.loads(SETTINGS.read_text())["STOP_SECONDS"])
    except (OSError, ValueError, KeyError):  # nothing runs, or a power cut has left half a file
        return float(environment()["STOP_SECONDS"])


def stop_leftovers() -> bool:
    """Whether there were any. They drain as at any stop."""
    deadline = time.monotonic() + stop_seconds()
    SETTINGS.unlink(missing_ok=True)  # nobody reads it any more, and it may hold a secret
    if not leftovers():
        return False
    say("stopping what was left behind")
    signal_leftovers(signal.SIGTERM)
    while leftovers():
        if time.monotonic() > deadline:
            signal_leftovers(signal.SIGKILL)
        time.sleep(0.1)
    return True


def signal_leftovers(signum: int) -> None:
    for process in leftovers():
        with suppress(ProcessLookupError):
            os.kill(process, signum)


def leftovers() -> list[int]:
    """Processes of this stack that somebody's kill left behind. They carry its VAR in their environment; nginx writes
    its title over that, and is known by the folder it stands in."""
    mark = f"\0VAR={VAR}\0".encode()
    found = nginx_processes()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in b"\0" + (process / "environ").read_bytes():
                found.append(int(process.name))
    return found
