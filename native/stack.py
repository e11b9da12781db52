"""The stack without Docker: supervisord, which runs nginx and two servers. `make up STACK=native` calls this.

    up      set up what is missing, start, wait until it is ready
    deploy  new code, settings and nginx configuration, one server after the other, while the rest serves
    down    stop: drain, then end; nothing of the stack is left
    status  what runs
    logs    follow the logs
    setup   only the virtual environment
    key NAME [--scopes …], key --revoke ID   create an API key, which is printed once; revoke one
    layout  only the folders and nginx's configuration
    backup FILE, restore FILE   copy the backlog, also while it is used; put a copy in its place

Only the standard library: this runs before anything is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import NoReturn

from deployment import deploy
from nginx import check_port, find_nginx, install_nginx, lay_out, run_nginx
from packages import setup
from processes import alone, is_supervisord, pid, run_server, stop_leftovers, stop_seconds, supervisorctl
from ready import URL, answer, is_ready, server_ready
from settings import (
    PORT,
    READY_TIMEOUT,
    ROOT,
    SERVERS,
    SETTINGS,
    VAR,
    check_settings,
    environment,
    fail,
    run_service,
    say,
    server_log,
    store_settings,
    venv,
)

SUPERVISORD_LOG = VAR / "log/supervisord.log"
PID_TIMEOUT = 5.0  # seconds


def up() -> None:
    with alone():
        if pid():
            fail(
                f"it runs already, as process {pid()}: `make deploy` brings new code and settings, `make down` stops it"
            )
        start()


def start() -> None:
    stop_leftovers()
    check_port()
    setup()
    check_settings("not started")
    nginx = find_nginx() or install_nginx()
    lay_out(nginx)
    store_settings(json.dumps(environment()))
    logged = size(SUPERVISORD_LOG)
    subprocess.run([venv("supervisord"), "-c", ROOT / "native/supervisord.conf"], env=environment(nginx), check=True)
    wait_until_ready(logged)
    key = " -H 'Authorization: Bearer KEY'" if os.environ.get("API_KEYS_FILE") else ""
    job = '{"job": "NAME", "args": {}}' if os.environ.get("JOBS") else '{"job": "primes", "args": {"limit": 100000}}'
    say(f"ready: {URL}   try:\n  curl -i {URL}/jobs{key} -d '{job}'")


def wait_until_ready(logged: int) -> None:
    started = time.monotonic()
    while not all(map(server_ready, range(SERVERS))) or not is_ready(*answer("/readyz")):
        waited = time.monotonic() - started
        # supervisord writes its pid file a moment after it has let go of us
        if server_failed(logged) or waited > READY_TIMEOUT or (waited > PID_TIMEOUT and pid() is None):
            give_up()
        time.sleep(0.1)


def server_failed(logged: int) -> bool:
    """The master gave up, and supervisord after it. What was logged before this start says nothing of it."""
    with suppress(FileNotFoundError), SUPERVISORD_LOG.open() as log:
        log.seek(logged if size(SUPERVISORD_LOG) >= logged else 0)
        return "entered FATAL state" in log.read()
    return False


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def give_up() -> NoReturn:
    down()
    for log in (VAR / "log/nginx.log", *map(server_log, range(SERVERS))):
        if log.exists():
            lines = log.read_text(errors="replace").splitlines()[-15:]
            say("\n".join([f"--- the last lines of {log}", *lines]))
    fail("the stack did not get ready, see above")


def down() -> None:
    running = pid()
    if running is None:
        return say("stopped" if stop_leftovers() else "nothing runs")
    deadline = time.monotonic() + stop_seconds() + 20
    supervisorctl("shutdown")
    while is_supervisord(running):  # its pid file is gone a moment before it is
        if time.monotonic() > deadline:
            fail(f"supervisord, process {running}, does not end: see {VAR}/log/")
        time.sleep(0.05)
    stop_leftovers()
    say("stopped")


def status() -> None:
    if pid() is None:
        fail("nothing runs: start it with `make up`")
    port = json.loads(SETTINGS.read_text())["PORT"] if SETTINGS.exists() else PORT
    if port != PORT:
        fail(f"the stack in {VAR} was started with PORT={port}: make status PORT={port}")
    supervisorctl("status")
    for path in ("/readyz", "/stats"):
        say(f"{path} {answer(path)[1]}")


def logs() -> None:
    files = sorted((VAR / "log").glob("*.log"))
    if not files:
        fail("there are no logs yet: start the stack with `make up`")
    with suppress(KeyboardInterrupt):
        subprocess.run(["tail", "-n", "50", "-F", *files], check=False)


def key(*arguments: str) -> None:
    with redirect_stdout(sys.stderr):  # only the key goes there
        setup()
    sys.exit(run_service("key", *arguments).returncode)


def backup(file: str = "") -> None:
    copy_backlog("backup", file)


def restore(file: str = "") -> None:
    copy_backlog("restore", file)


def copy_backlog(direction: str, file: str) -> None:
    if not file:
        fail(f"which file? make {direction} FILE=…")
    if direction == "restore" and pid():
        fail("the stack runs: stop it first, with make down")
    setup()
    sys.exit(run_service(direction, file).returncode)


def layout() -> None:
    """For whoever starts nginx and what is behind it otherwise."""
    lay_out(find_nginx() or install_nginx())


COMMANDS: dict[str, Callable[..., None]] = {
    "layout": layout,
    "up": up,
    "deploy": deploy,
    "down": down,
    "status": status,
    "logs": logs,
    "setup": setup,
    "key": key,
    "backup": backup,
    "restore": restore,
    "nginx": run_nginx,
    "server": run_server,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"{__doc__}")
    try:
        COMMANDS[sys.argv[1]](*sys.argv[2:])
    except KeyboardInterrupt:
        fail("interrupted")
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        fail(f"{error.filename}: {error.strerror}")
    except PermissionError as error:
        fail(f"{error.filename}: permission denied; {VAR} belongs to another user? Set VAR_DIR to a folder of yours")
