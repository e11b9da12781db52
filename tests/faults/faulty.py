"""What several of these tests need: a server with a fault, and the store as it is when nobody has it open."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

import apsw
import pytest

from tests.support import ROOT, Server, wait_until

NEEDS_STRACE = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")

# Holds the write lock of SQLite, as a person's shell or a backup tool would; not our flock.
WRITE_LOCK = """
import sys, apsw
db = apsw.Connection(sys.argv[1])
db.set_busy_timeout(10000)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""

# Holds the lock that the producers take in turn, as one that hangs in a write would.
TURN_LOCK = """
import fcntl, sys
file = open(sys.argv[1] + ".lock", "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


class FaultyServer(Server):
    """The real server, started by tests/faults/launch.py. The fault happens once `arm` was called."""

    def __init__(self, folder: Path, fault: str, settings: dict[str, str]) -> None:
        super().__init__(folder, settings)
        self.armed = folder / "armed"
        self.command = ("tests.faults.launch", fault, str(self.armed))

    def arm(self, text: str = "") -> None:
        unseen = self.armed.with_suffix(".new")
        unseen.write_text(text)
        unseen.rename(self.armed)


@contextmanager
def faulty_server(folder: Path, fault: str, **settings: str) -> Iterator[FaultyServer]:
    it = FaultyServer(folder, fault, settings)
    it.start()
    try:
        it.wait_until_ready()
        yield it
    finally:
        it.kill_everything()


@contextmanager
def script(code: str, *arguments: str) -> Iterator[Popen[str]]:
    """Run `code` in a process of its own, until the block ends; yields once it has printed a line."""
    command = [sys.executable, "-c", code, *arguments]
    with Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def file_of(folder: Path) -> Path:
    return folder / "data/backlog.db"


def stored(file: Path) -> list[tuple[str, str, int]]:
    """(arguments, state, attempt) of every job, in order of arrival. Checks the whole file too."""
    db = apsw.Connection(str(file))
    try:
        assert db.pragma("integrity_check") == "ok"
        counts = dict(db.execute("SELECT state, n FROM counts WHERE n"))
        assert counts == dict(db.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
        return db.execute("SELECT args, state, attempt FROM jobs ORDER BY seq").fetchall()
    finally:
        db.close()


@contextmanager
def strace(pid: int, output: Path, *options: str) -> Iterator[None]:
    """Follow every thread of a process, until the block ends."""
    said = output.with_suffix(".said")
    with said.open("w") as stderr:
        tracer = Popen(["strace", "-f", "-o", str(output), *options, "-p", str(pid)], stderr=stderr)
    try:
        wait_until(lambda: "attached" in said.read_text() or tracer.poll() is not None, "strace is attached")
        assert tracer.poll() is None, said.read_text()
        yield
    finally:
        tracer.send_signal(signal.SIGINT)  # lets go of the process
        tracer.wait(20)
