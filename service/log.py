"""One line an event, with the id of the request that caused it. Whatever it quotes stays on its line, cannot move a
terminal's cursor, and is cut."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextvars import ContextVar
from typing import TextIO

request_id: ContextVar[str] = ContextVar("request_id", default="-")

LINE_MAX = 2000  # characters of a message; of a longer one, a client's text of 1 MiB, the rest tells nobody more


class Formatter(logging.Formatter):
    _second, _shown = 0, ""  # the last one, and how it is written

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._shown = second, self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        line = (
            f"{self._shown}.{int(record.msecs):03d} {record.levelname} {record.process} "
            f"[{request_id.get()}] {plain(record.getMessage())}"
        )
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        return f"{line}\n{trace}" if trace else line


class Handler(logging.StreamHandler[TextIO]):
    """Writes what is logged in one turn of the event loop at once; a warning, and what a thread says, without delay. A
    system call for each line, of two for each job, was a twentieth of all that a producer does in a flood."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._turn: asyncio.AbstractEventLoop | None = None  # at whose end they are written

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + self.terminator)
            if record.levelno >= logging.WARNING or not self._later():
                self.flush()
        except Exception:
            self.handleError(record)

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
    handler = Handler(sys.stdout)
    handler.setFormatter(Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # Below that it tells of clients' mistakes only, and quotes the header: of a key with a stray character, the key.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)
