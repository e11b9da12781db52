"""One line an event, with the id of the request that caused it. Whatever it quotes stays on its line, cannot move a
terminal's cursor, and is cut."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from contextvars import ContextVar
from functools import lru_cache
from typing import TextIO

request_id: ContextVar[str] = ContextVar("request_id", default="-")

LINE_MAX = 2000  # characters of a message; of a longer one, a client's text of 1 MiB, the rest tells nobody more


@lru_cache(maxsize=2)
def moment(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second))


def line(at: float, level: str, message: str) -> str:
    """`at` is seconds since the epoch."""
    shown = f"{moment(int(at))}.{int(at % 1 * 1000):03d}"
    return f"{shown} {level} {os.getpid()} [{request_id.get()}] {plain(message)}"


class Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = line(record.created, record.levelname, record.getMessage())
        return f"{told}\n{self.formatException(record.exc_info)}" if record.exc_info else told


class Handler(logging.StreamHandler[TextIO]):
    """Writes what is logged in one turn of the event loop at once; a warning, and what a thread says, without delay. A
    system call for each line, of two for each job, was a twentieth of all that a producer does in a flood."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._turn: asyncio.AbstractEventLoop | None = None  # at whose end they are written

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.put(self.format(record), record.levelno >= logging.WARNING)
        except Exception:
            self.handleError(record)

    def put(self, line: str, at_once: bool = False) -> None:
        assert self.lock
        with self.lock:  # or a line could come into the list that a thread has just written
            self._lines.append(line + self.terminator)
            if not self._later() or at_once:
                self.flush()

    def _later(self) -> bool:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a thread, or no event loop
            return False
        if self._turn is not loop:
            loop.call_soon(self._end_turn)
            self._turn = loop
        return True

    def _end_turn(self) -> None:
        self._turn = None
        self.flush()

    def flush(self) -> None:
        assert self.lock
        with self.lock:
            lines, self._lines = self._lines, []
            self.stream.write("".join(lines))
            super().flush()


_handler: Handler | None = None  # where info lines are wanted


def tell(message: str) -> None:
    """An info line of what happens to every job. By the way that `logging` takes, it costs five times as much."""
    if _handler:
        _handler.put(line(time.time(), "INFO", message))


def plain(message: str) -> str:
    """Cut, and with everything escaped that a terminal or a reader of lines would obey: line separators, escapes,
    overrides of the writing direction."""
    if len(message) > LINE_MAX:
        message = f"{message[:LINE_MAX]} ... and {len(message) - LINE_MAX} characters more"
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def set_up(level: str) -> None:
    """Log to standard output, which whoever runs us keeps. `level` as in LOG_LEVEL."""
    # What no line shows: https://docs.python.org/3/howto/logging.html#optimization. It took a third of every line.
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = False
    global _handler
    handler = Handler(sys.stdout)
    handler.setFormatter(Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    _handler = handler if logging.root.isEnabledFor(logging.INFO) else None
    # Below that it tells of clients' mistakes only, and quotes the header: of a key with a stray character, the key.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)
