"""The stack that is hit: one of our own, on the bare machine or in containers, and what is left when it has stopped."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from .contestant import ROOT, USERS, Stack, free_port, own_stack
from .exits import Unusable
from .victim import Victim, tree

# Small, so that a minute holds many of each: a lost lease, a drain that is too short, a full executor.
SETTINGS = {"LEASE": "3", "DRAIN": "3", "PRODUCERS": "3", "SLOTS": "4"}
LEASE, DRAIN = float(SETTINGS["LEASE"]), float(SETTINGS["DRAIN"])
DATABASE = ("backlog.db", "backlog.db-wal")
COMPOSE_LIMIT = 300.0  # seconds for one command

# How often each role is hit. Most processes are slots; by number alone, nothing else would be.
WEIGHTS = {
    "slot": 6.0,
    "fork server": 3.0,
    "tracker": 1.0,
    "producer": 5.0,
    "master": 1.5,
    "nginx master": 1.0,
    "nginx worker": 2.0,
}
IN_CONTAINERS = {"container": 1.0, "init": 0.5, "supervisord": 0.5, "listener": 0.5}


class Native:
    """Everything below supervisord; not itself, since nothing would start it again."""

    weights = WEIGHTS

    def __init__(self, stack: Stack) -> None:
        self.stack, self.url, self.said = stack, stack.url, ""
        self.folder = Path(stack.folder)

    def victims(self) -> list[Victim]:
        supervisord = int((self.folder / "run/supervisord.pid").read_text())
        return tree(supervisord, socket.gethostname())[1:]

    def strays(self) -> set[int]:
        """Processes that carry the stack's mark and hang below nobody of it."""
        supervisord = int((self.folder / "run/supervisord.pid").read_text())
        return self.marked() - {supervisord} - {v.pid for v in self.victims() if v.role != "orphan"}

    def marked(self) -> set[int]:
        """By the VAR in their environment; nginx writes its title over that, and is known by where it stands."""
        mark, found = f"\0VAR={self.folder}\0".encode(), set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                at_home = (process / "cwd").readlink() == self.folder / "nginx"
                if at_home or mark in b"\0" + (process / "environ").read_bytes():
                    found.add(int(process.name))
        return found

    def kill_container(self, container: str) -> None:
        raise AssertionError("the bare machine has no containers: its weights name none")

    def start_container(self, container: str) -> None:
        raise AssertionError("the bare machine has no containers: its weights name none")

    def stop(self) -> None:
        self.said = self.stack.make("down")

    def left(self) -> set[int]:
        """Processes after the stop; also those that only `down` had to find and end."""
        return self.marked() or ({0} if "left behind" in self.said else set())

    def database(self, out: Path) -> Path:
        return copied(self.folder / "data", out)

    def logs(self, out: Path) -> None:
        for log in (self.folder / "log").iterdir():
            shutil.copy(log, out)


class Compose:
    """A project of its own."""

    weights = WEIGHTS | IN_CONTAINERS

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.project = f"stormdrain-chaos-{self.port}"
        unset = dict.fromkeys(USERS, "")
        ours = {"PORT": str(self.port), "COMPOSE_PROJECT_NAME": self.project}
        self.environment = os.environ | SETTINGS | unset | ours

    def compose(self, *arguments: str) -> str:
        return said(["docker", "compose", *arguments], self.environment)

    def containers(self) -> list[dict[str, Any]]:
        ids = self.compose("ps", "--all", "--quiet", "server", "nginx").split()
        return json.loads(said(["docker", "inspect", *ids])) if ids else []

    def victims(self) -> list[Victim]:
        found: list[Victim] = []
        for container in self.containers():
            pid, id = container["State"]["Pid"], container["Id"]
            processes = tree(pid, id[:12], id) if pid else []
            if processes:
                whole = Victim("container", pid, processes[0].born, (f"{id[:12]}.",), id)
                # Its producers may be younger than this look: who ends all of it is known by the host.
                heads = [
                    v._replace(workers=whole.workers) if v.role in ("init", "supervisord") else v for v in processes
                ]
                found += [whole, *heads]
        return found

    def strays(self) -> set[int]:
        return {victim.pid for victim in self.victims() if victim.role == "orphan"}

    def kill_container(self, container: str) -> None:
        """Raises Unusable when it does not run: it has just ended by itself, after another hit."""
        said(["docker", "kill", "--signal", "KILL", container])

    def start_container(self, container: str) -> None:
        """As somebody would: after `docker kill` the restart policy leaves it down."""
        said(["docker", "start", container])

    def stop(self) -> None:
        self.compose("stop")

    def left(self) -> set[int]:
        """None but those that were seen while it ran, and those are looked for by whoever saw them."""
        return set()

    def database(self, out: Path) -> Path:
        (server, *_) = self.compose("ps", "--all", "--quiet", "server").split()
        said(["docker", "cp", "--quiet", f"{server}:/data", str(out / "copy")])
        path = copied(out / "copy", out)
        shutil.rmtree(out / "copy")
        return path

    def logs(self, out: Path) -> None:
        (out / "compose.log").write_text(self.compose("logs", "--timestamps"))


def said(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a command says. Raises Unusable."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMPOSE_LIMIT,
        start_new_session=True,
    )
    if done.returncode:
        raise Unusable(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


def copied(folder: Path, out: Path) -> Path:
    """The database with its log: closed by all, and not touched where it lies."""
    for name in DATABASE:
        (out / name).unlink(missing_ok=True)
        if (folder / name).exists():
            shutil.copy(folder / name, out)
    return out / DATABASE[0]


@contextmanager
def native() -> Iterator[Native]:
    with own_stack(**SETTINGS) as stack:
        yield Native(stack)


@contextmanager
def docker() -> Iterator[Compose]:
    if os.geteuid() != 0:
        raise Unusable("Processes in containers belong to others: chaos with Docker needs root.")
    it = Compose()
    try:
        it.compose("up", "--detach", "--wait")
        yield it
    finally:
        it.compose("down", "--volumes")


TARGETS: dict[str, Callable[[], AbstractContextManager[Native | Compose]]] = {"native": native, "docker": docker}
