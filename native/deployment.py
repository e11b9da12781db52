"""New code and settings, one server after the other, while the rest serves."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from nginx import find_nginx, reload_nginx
from packages import setup
from processes import alone, pid, supervisorctl
from ready import URL, server_ready
from settings import (
    BIND,
    PORT,
    READY_TIMEOUT,
    SERVERS,
    SETTINGS,
    check_settings,
    environment,
    fail,
    say,
    server_log,
    store_settings,
)

STOPS = (signal.SIGINT, signal.SIGTERM)
# What a deployment must not lose because somebody forgot to say it.
KEPT = {
    "API_KEYS_FILE": "To ask for no keys any more: make down, then make up",
    "JOBS": "For the jobs that come with it: JOBS=service.jobs",
    "CALLBACK_SECRET": "To tell nobody any more of jobs that wait: make down, then make up",
}


def deploy() -> None:
    """Nothing is stopped before the new settings and nginx's configuration are found good."""
    for stop in STOPS:
        signal.signal(stop, interrupt)
    running_settings()  # tells what is amiss, a stack that does not run for instance
    with alone():
        before = running_settings()
        setup()
        check_settings("not deployed")
        nginx = find_nginx() or fail("nginx is missing: its new configuration cannot be checked")
        new: list[int] = []
        try:
            with finished():
                reload_nginx(nginx)
            store_settings(json.dumps(environment()))
            # One that does not serve comes first: or the only one that does would be stopped.
            for number in sorted(range(SERVERS), key=server_ready):
                with finished():
                    replace(number, before, new)
        except KeyboardInterrupt:
            if not new:
                store_settings(before)
            if len(new) < SERVERS:
                fail(f"interrupted: {how_far(new)}")
    say(f"deployed: {SERVERS} new servers, ready at {URL}")


def running_settings() -> str:
    """What the servers were started with, as it is stored."""
    if not pid():
        fail("nothing runs that could be replaced: start it with `make up`")
    if not SETTINGS.exists():
        fail("what runs is of a release that could not be replaced under load: make down, then make up, this once")
    running = {"BIND": "127.0.0.1"} | json.loads(SETTINGS.read_text())  # a release before had no other
    for name, now in (("PORT", PORT), ("BIND", BIND), ("STOP_SECONDS", environment()["STOP_SECONDS"])):
        if running[name] != now:
            setting = name.replace("STOP_SECONDS", "DRAIN")
            fail(f"{setting} is not what the stack was started with, and needs a new start: make down, then make up")
    for name in KEPT:
        if running.get(name) and not environment().get(name):
            fail(f"{name} is not set, and is where the stack runs: set it, in .env for instance. {KEPT[name]}")
    return SETTINGS.read_text()


def interrupt(signum: int, frame: object) -> NoReturn:
    """Once: another one would interrupt what is said and stored because of the first."""
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def finished() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block ends: in its midst a server would stay stopped, or nginx go on closing
    connections. What the block starts inherits it: a supervisorctl that is interrupted may have asked for nothing."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    yield  # what the block raises ends the program, and is what there is to tell
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def replace(number: int, before: str, new: list[int]) -> None:
    say(f"server {number}: draining, then a new one; Ctrl-C waits for that")
    if not restart(number):
        store_settings(before)
        say(f"server {number}: the new one does not get ready; going back to the settings of before")
        state = "serves again" if restart(number) else "does not start either"
        because = f"a new server did not get ready, see {server_log(number)}; as it was set before, it {state}"
        fail(f"not deployed: {because}. {how_far(new)}")
    new.append(number)
    say(f"server {number}: the new one is ready")


def how_far(new: list[int]) -> str:
    told = f"{len(new)} of {SERVERS} servers run the new code and settings"
    return f"{told}; make deploy again replaces all" if new else told


def restart(number: int) -> bool:
    """Whether the new one got ready."""
    server = f"server:server_{number}"
    # Returns when it has ended. If it has not, a start would find it running and be content.
    if not (supervisorctl("stop", server) and supervisorctl("start", server)):
        return False
    deadline = time.monotonic() + READY_TIMEOUT
    while not server_ready(number):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
