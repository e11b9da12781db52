"""One line an event, with the id of the request that caused it. Whatever it quotes stays on its line, cannot move a
terminal's cursor, and is cut."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")

LINE_MAX = 2000  # characters of a message; of a longer one, a client's text of 1 MiB, the rest tells nobody more
FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(process)d [%(request)s] %(message)s"


class Formatter(logging.Formatter):
    _second, _shown = 0, ""  # the last one, and how it is written

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        if int(record.created) != self._second:
            self._second, self._shown = int(record.created), super().formatTime(record, datefmt)
        return self._shown

    def format(self, record: logging.LogRecord) -> str:
        record.request = request_id.get()
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = plain(record.message)
        return super().formatMessage(record)


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
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Formatter(FORMAT, "%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # Below that it tells of clients' mistakes only, and quotes the header: of a key with a stray character, the key.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)
