"""The real server with one fault built in: `python -m tests.faults.launch FAULT ARMED serve`.

The product has no failpoints. Here they are put around it before it forks, so that every producer has them. A fault
waits until the file ARMED is there, takes it away, and happens: once, in whichever producer was first.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def happens(armed: Path) -> bool:
    try:
        armed.unlink()
    except FileNotFoundError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_before_commit(armed: Path) -> None:
    """With its puts in an open transaction."""

    def around(batch: Callable[[], Iterator[None]], has_put: Callable[[], bool]) -> Iterator[None]:
        with batch():
            yield
            if has_put() and happens(armed):
                die()

    around_batches(around)


def killed_after_commit(armed: Path) -> None:
    """With its puts on disk, before anybody is told."""

    def around(batch: Callable[[], Iterator[None]], has_put: Callable[[], bool]) -> Iterator[None]:
        with batch():
            yield
        if has_put() and happens(armed):
            die()

    around_batches(around)


def around_batches(around: Callable) -> None:
    from service.backlog.sqlite import SqliteBacklog

    batch, put = SqliteBacklog.batch, SqliteBacklog.put
    puts = 0

    @contextmanager
    def patched_batch(self: SqliteBacklog) -> Iterator[None]:
        nonlocal puts
        puts = 0
        yield from around(lambda: batch(self), lambda: puts > 0)

    def patched_put(self: SqliteBacklog, jobs: Sequence) -> list[bool]:
        nonlocal puts
        puts += len(jobs)
        return put(self, jobs)

    SqliteBacklog.batch, SqliteBacklog.put = patched_batch, patched_put


def wall_clock_stepped(armed: Path) -> None:
    """The step, in seconds, is what ARMED says for as long as it is there."""
    real = time.time

    def stepped() -> float:
        try:
            return real() + float(armed.read_text())
        except (FileNotFoundError, ValueError):
            return real()

    time.time = stepped  # before the service is imported: it takes the function as a default


FAULTS = {fault.__name__: fault for fault in (killed_before_commit, killed_after_commit, wall_clock_stepped)}


def main() -> int:
    fault, armed = sys.argv[1:3]
    del sys.argv[1:3]
    FAULTS[fault](Path(armed))
    from service.__main__ import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
