"""One file per worker, beside the store: a FIFO that says "I live" and "wake up".

Alive: the worker holds a flock on it. The kernel releases that at death, however it came, also when a whole
container is killed; no clock is involved. (Slots are not forked from the worker, so they do not inherit the lock.)
Awake: a byte written into it makes the worker look at the backlog. Both work across containers that share the
volume, since they share the kernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class Presence:
    """Not here until `arrive`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: tuple[str, int] | None = None
        self._held: dict[str, int] = {}  # locks of dead workers

    def arrive(self, worker: str) -> None:
        """Show that this worker lives, until the process ends or leaves."""
        self._folder.mkdir(parents=True, exist_ok=True)
        unseen = self._folder / f".{worker}"
        os.mkfifo(unseen, 0o660)
        fd = os.open(unseen, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Named only once it is locked: a sweeper would take an unlocked one for dead.
        unseen.rename(self._folder / worker)
        self._own = worker, fd

    def fileno(self) -> int | None:
        return self._own[1] if self._own else None

    def dead(self) -> list[str]:
        """The workers that are dead. Nobody else finds them until `bury` or `release`."""
        for worker in self._names():
            fd = self._lock(worker)
            if fd is not None:
                self._held[worker] = fd
        return list(self._held)

    def living(self) -> list[str]:
        """The others that live."""
        return [name for name in self._names() if self._lives(name)]

    def _lives(self, worker: str) -> bool:
        fd = self._lock(worker)
        if fd is not None:
            os.close(fd)
        return fd is None and (self._folder / worker).exists()

    def bury(self) -> None:
        """What the dead ones held is on disk as queued: forget them."""
        for worker in self._held:
            (self._folder / worker).unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Leave the dead ones to be found again."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def _names(self) -> list[str]:
        own = self._own[0] if self._own else None
        with contextlib.suppress(FileNotFoundError):
            return [name for name in os.listdir(self._folder) if name not in (own, *self._held) and name[0] != "."]
        return []

    def _lock(self, worker: str) -> int | None:
        try:
            fd = os.open(self._folder / worker, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:  # somebody else has just buried it
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def wake_others(self) -> None:
        for name in self._names():
            with contextlib.suppress(OSError):  # it has just died, or its FIFO is full and it will look anyway
                fd = os.open(self._folder / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    os.write(fd, b"!")
                finally:
                    os.close(fd)

    def leave(self) -> None:
        """What this worker held is on disk as queued: nobody needs to look for it."""
        if self._own:
            (self._folder / self._own[0]).unlink(missing_ok=True)

    def close(self) -> None:
        """Without having left, this looks like a death: the others take over what is held."""
        if self._own:
            os.close(self._own[1])
            self._own = None
