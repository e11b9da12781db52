"""Who takes part in the race: each stage of the ladder, and the full product. How each is started, killed, counted."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .exits import Unusable
from .interrupts import uninterrupted

# As `python -m service stage --help` lists them; a test keeps them equal. Nothing here may import what teaches.
STAGES = (
    "hello",
    "blocking",
    "forked",
    "coroutine",
    "thread_executor",
    "process_executor",
    "producer_consumer",
)
QUEUE = "producer_consumer"  # the stage that answers before the job is done, and so can lose it
PRODUCT = "service"

ROOT = Path(__file__).resolve().parent.parent
# The user's own jobs would take the place of those that are asked for; and nobody here has a key.
USERS = ("JOBS", "JOBS_DIR", "BIND", "API_KEYS_FILE")
START_LIMIT = 30.0  # seconds for a stage; it needs one
STACK_LIMIT = 300.0  # seconds for the full stack, which sets up what is missing
STOP_LIMIT = 10.0
LOOK = 0.05


class Stage:
    """A teaching server of our own, in a process group of its own."""

    def __init__(self, name: str, job: str, args: dict[str, Any], folder: Path, *options: str) -> None:
        self.name, self.folder = name, folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        words = [word for key, value in args.items() for word in (f"--{key}", str(value))]
        self.command = [sys.executable, "-m", "service", "stage", name, "--port", str(self.port), "--job", job, *words]
        self.command += options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "out").open("ab") as out, (self.folder / "err").open("ab") as err:
            self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=out, stderr=err, start_new_session=True)
        deadline = time.monotonic() + START_LIMIT
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "err").read_text(errors="replace")
                raise Unusable(f"Stage {self.name} does not start:\n{said[-2000:]}")
            time.sleep(LOOK)

    def listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def stop(self) -> None:
        if self.process:
            try:
                self.process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_LIMIT)
            finally:
                self.kill()

    def kill(self) -> None:
        assert self.process
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def crash(self) -> None:
        """kill -9 of the whole server, and a new one in its place."""
        self.kill()
        self.start()

    def finished(self) -> set[str]:
        """The jobs that have ended: each writes a line with its number."""
        lines = (self.folder / "out").read_text().splitlines()
        return {line.removesuffix(" done") for line in lines if line.endswith(" done")}


class Stack:
    """nginx, supervisord and the forked server, on a port and in a folder of their own."""

    def __init__(self, folder: str, settings: dict[str, str]) -> None:
        self.folder, self.port, self.settings = folder, free_port(), settings
        self.url = f"http://127.0.0.1:{self.port}"

    def make(self, command: str) -> str:
        """What it said. Raises Unusable."""
        environment = {name: value for name, value in os.environ.items() if name not in USERS}
        done = subprocess.run(
            [sys.executable, "-E", ROOT / "native/stack.py", command],
            env=environment | self.settings | {"VAR_DIR": self.folder, "PORT": str(self.port)},
            capture_output=True,
            text=True,
            timeout=STACK_LIMIT,
            start_new_session=True,  # a Ctrl-C that ends it half-way would leave what it had started
        )
        if done.returncode:
            raise Unusable(f"The full stack: {(done.stdout + done.stderr).strip()}")
        return done.stdout

    def crash(self) -> None:
        """kill -9 of the master and all producers at once; slots end with them, supervisord starts a new server."""
        servers = self.servers()
        if not servers:
            raise Unusable("The full stack has no server that could be killed.")
        for server in servers:
            os.killpg(server, signal.SIGKILL)

    def servers(self) -> list[int]:
        """The masters, which are children of supervisord and lead their process groups."""
        supervisord = (Path(self.folder) / "run/supervisord.pid").read_text().strip()
        children = Path(f"/proc/{supervisord}/task/{supervisord}/children").read_text().split()
        return [
            int(child) for child in children if b"service" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        ]


@contextmanager
def stage(name: str, job: str, args: dict[str, Any], *options: str) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="stage-") as folder:
        it = Stage(name, job, args, Path(folder), *options)
        try:
            it.start()
            yield it
        finally:
            it.stop()


@contextmanager
def own_stack(**settings: str) -> Iterator[Stack]:
    """`settings` of the server, by the names of their variables. Half a start or half a stop would leave processes."""
    it = Stack(tempfile.mkdtemp(prefix="stack-"), settings)
    try:
        with uninterrupted():
            it.make("up")
        yield it
    finally:
        with uninterrupted():
            print("stopping the full stack", file=sys.stderr, flush=True)
            it.make("down")
            shutil.rmtree(it.folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
