"""What a slot's process, and whatever it started, writes to standard output and error: the last of it, per attempt."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Pipe

KEPT = 4_000  # bytes; the last lines say what happened, and a history has up to a hundred attempts
CHUNK = 1 << 16  # bytes, all that a pipe holds
DRAIN = 16  # chunks; something that a job has left behind may print for ever


class Output:
    """A pipe. Who fills it faster than it is read waits, so a job that prints without end costs no memory."""

    def __init__(self) -> None:
        self._reader, self.writer = Pipe(duplex=False)  # `writer` goes to the slot's process
        os.set_blocking(self._reader.fileno(), False)
        self._tail = b""
        self._followed = self._closing = False

    @contextmanager
    def followed(self) -> Iterator[None]:
        """What comes during this block is this attempt's. In the event loop."""
        loop, fd = asyncio.get_running_loop(), self._reader.fileno()

        def readable() -> None:
            if self._read() == b"":  # all who could write have ended
                loop.remove_reader(fd)

        self.text()
        self._tail = b""
        self._followed = True
        loop.add_reader(fd, readable)
        try:
            yield
        finally:
            loop.remove_reader(fd)
            self._followed = False
            if self._closing:
                self.close()

    def _read(self) -> bytes | None:
        """None: nothing is there yet."""
        try:
            chunk = os.read(self._reader.fileno(), CHUNK)
        except BlockingIOError:
            return None
        self._tail = (self._tail + chunk)[-KEPT:]
        return chunk

    def text(self) -> str:
        """The last lines so far."""
        for _ in range(DRAIN):
            if not self._read():
                break
        return self._tail.decode("utf-8", "replace")

    def close(self) -> None:
        """At once, or when nobody follows any more."""
        self._closing = True
        if not self._followed:
            self._reader.close()
            self.writer.close()
