"""What a slot's process says of its jobs, one by one; and our one word to it: no further."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Pipe

import msgspec

CHUNK = 1 << 16  # bytes, all that a pipe holds
HEADER = 4  # bytes of length, as multiprocessing's connections write it


class Reply(msgspec.Struct, array_like=True):
    """What one job came to: its result as JSON, or (type, message, traceback). `place` is its own in the course.
    `max_rss` is bytes, the most that the process has had so far."""

    course: int
    place: int
    result: bytes | None
    error: tuple[str, str, str] | None
    seconds: float
    cpu_seconds: float
    max_rss: int


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Reply).decode


class Replies:
    def __init__(self, most: int) -> None:
        """`most` is bytes: a longer reply is none."""
        self._reader, self.writer = Pipe(duplex=False)  # `writer` goes to the slot's process
        self.recalled, self._recall = Pipe(duplex=False)  # and so does `recalled`
        os.set_blocking(self._reader.fileno(), False)
        self._most, self._buffer = most, bytearray()

    def started(self) -> None:
        """The process has its ends: so that we see when it closes them."""
        self.writer.close()
        self.recalled.close()

    @contextmanager
    def followed(self, readable: Callable[[], None]) -> Iterator[None]:
        """During this block `readable` is called when there are some. In the event loop."""
        loop, fd = asyncio.get_running_loop(), self._reader.fileno()

        def come() -> None:
            if self._fill():
                loop.remove_reader(fd)
            readable()

        loop.add_reader(fd, come)
        try:
            yield
        finally:
            loop.remove_reader(fd)

    def _fill(self) -> bool:
        """Whether that was the last: all who could write have ended."""
        try:  # once: who writes without an end must not hold the event loop
            chunk = os.read(self._reader.fileno(), CHUNK)
        except BlockingIOError:
            return False
        self._buffer += chunk
        return not chunk

    def read(self) -> Iterator[Reply]:
        """Those that have come. Raises ValueError for what is none: the job may have written there."""
        self._fill()
        while len(self._buffer) >= HEADER:
            end = HEADER + int.from_bytes(self._buffer[:HEADER], "big")
            if end > self._most:
                raise ValueError(f"a reply of {end} bytes")
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[HEADER:end])
            del self._buffer[:end]
            yield decode(message)

    def recall(self, course: int) -> None:
        """Jobs of this course that have not begun do not begin. The process looks before each, and after its reply to
        the one before: so what has no reply after this, but for the first such, never begins."""
        with suppress(OSError):  # it is dead, or has closed its end
            self._recall.send_bytes(b"%d" % course)

    def close(self) -> None:
        for end in (self._reader, self.writer, self.recalled, self._recall):
            end.close()
