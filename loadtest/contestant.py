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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .exits import Unusable

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
PRODUCT = "service"
ACCEPTING = ("producer_consumer", PRODUCT)  # answer before the job is done, so that a job can be lost

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT = 60.0  # seconds; the full stack sets up what is missing
STOP_LIMIT = 10.0
LOOK = 0.05  # seconds


@dataclass(frozen=True)
class Job:
    """`sleep` waits `amount` seconds, `primes` computes up to the number `amount`."""

    name: str
    amount: float

    @property
    def args(self) -> dict[str, Any]:
        return {"seconds": self.amount} if self.name == "sleep" else {"limit": int(self.amount)}


class Stage:
    """A teaching server of our own, in a process group of its own."""

    def __init__(self, name: str, job: Job, log: Path, *options: str) -> None:
        self.name, self.job, self.log, self.options = name, job, log, options
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        option = "--seconds" if self.job.name == "sleep" else "--limit"
        command = [sys.executable, "-m", "service", "stage", self.name, "--port", str(self.port)]
        with self.log.open("ab") as log:  # many processes write to it: each line to its end
            self.process = subprocess.Popen(
                [*command, "--job", self.job.name, option, str(self.job.amount), *self.options],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        wait_for(self.listens, f"stage {self.name} listens")

    def listens(self) -> bool:
        if self.process.poll() is not None:
            raise Unusable(f"Stage {self.name} ended at once: try `python -m service stage {self.name}`.")
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def stop(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_LIMIT)
        self.kill()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def crash(self) -> None:
        """kill -9 of the whole server, and a new one in its place."""
        self.kill()
        self.start()

    def finished(self) -> int:
        """Each job writes a line when it has ended."""
        return self.log.read_bytes().count(b" done\n")


class Stack:
    """nginx, supervisord and the forked server, on a port and in a folder of their own."""

    def __init__(self, folder: str) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def make(self, command: str) -> None:
        # Without the user's own jobs and settings of the place: the race brings its job along.
        foreign = ("JOBS", "JOBS_DIR", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
        environment = {name: value for name, value in os.environ.items() if name not in foreign}
        done = subprocess.run(
            [sys.executable, ROOT / "native/stack.py", command],
            env=environment | {"VAR_DIR": self.folder, "PORT": str(self.port)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Unusable(f"The full stack: {(done.stdout + done.stderr).strip()}")

    def crash(self) -> None:
        """kill -9 of the master and all producers at once; slots end with them, supervisord starts a new server."""
        supervisord = (Path(self.folder) / "run/supervisord.pid").read_text().strip()
        for child in Path(f"/proc/{supervisord}/task/{supervisord}/children").read_text().split():
            if b"service" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                os.killpg(int(child), signal.SIGKILL)


@contextmanager
def stage(name: str, job: Job, *options: str) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="stage-") as folder:
        it = Stage(name, job, Path(folder) / "out.log", *options)
        it.start()
        try:
            yield it
        finally:
            it.stop()


@contextmanager
def own_stack() -> Iterator[Stack]:
    it = Stack(tempfile.mkdtemp(prefix="race-"))
    try:
        it.make("up")
        yield it
    finally:
        it.make("down")
        shutil.rmtree(it.folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + START_LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise Unusable(f"Not within {START_LIMIT:.0f} s: {what}.")
        time.sleep(LOOK)
