"""What a slot's process, and whatever it started, writes to standard output and error: the last of it, per attempt."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Pipe

KEPT = 4_000  # bytes; the last lines say what happened, and a history has up to a hundred attempts
CHUNK = 1 << 16  # bytes, all that a pipe holds
DRAIN = 16  # chunks; something that a job has left behind may print for ever


class Output:
    """A pipe. Who fills it faster than it is read waits, so a job that prints without end costs no memory.

    After each job its process writes a mark there that nobody guesses: what was written before it is that job's."""

    def __init__(self) -> None:
        self.mark = b"\0" + os.urandom(16) + b"\0"
        self._ended: deque[bytes] = deque()  # of jobs whose mark has come
        self._reader, self.writer = Pipe(duplex=False)  # `writer` goes to the slot's process
        os.set_blocking(self._reader.fileno(), False)
        self._tail = b""

    @contextmanager
    def followed(self) -> Iterator[None]:
        """What comes during this block is of the jobs that run in it. In the event loop."""
        loop, fd = asyncio.get_running_loop(), self._reader.fileno()

        def readable() -> None:
            if self._read() == b"":  # all who could write have ended
                loop.remove_reader(fd)

        self._drain()
        self._tail = b""
        self._ended.clear()
        loop.add_reader(fd, readable)
        try:
            yield
        finally:
            loop.remove_reader(fd)

    def _read(self) -> bytes | None:
        """None: nothing is there yet."""
        try:
            chunk = os.read(self._reader.fileno(), CHUNK)
        except BlockingIOError:
            return None
        *ended, rest = (self._tail + chunk).split(self.mark)
        self._ended.extend(text[-KEPT:] for text in ended)
        self._tail = rest[-KEPT:]  # with the beginning of a mark, if there is one
        return chunk

    def _drain(self) -> None:
        for _ in range(DRAIN):
            if not self._read():
                break

    def of_one(self) -> str:
        """The last lines of a job that has ended: the next one whose mark was written."""
        if not self._ended:
            self._drain()
        return shown(self._ended.popleft()) if self._ended else self.rest()

    def rest(self) -> str:
        """The last lines of a job that came to no mark."""
        self._drain()
        return shown(self._ended.popleft() if self._ended else self._tail)

    def close(self) -> None:
        self._reader.close()
        self.writer.close()


def shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")
