"""One line an event, with the id of the request that caused it. Whatever a client sent is logged as JSON, so that it
stays on its line."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")

FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(process)d [%(request)s] %(message)s"


class Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.request = request_id.get()
        return super().format(record)


def set_up(level: str) -> None:
    """Log to standard output, which whoever runs us keeps. `level` as in LOG_LEVEL."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Formatter(FORMAT, "%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # Below that it tells of clients' mistakes only, and quotes the header: of a key with a stray character, the key.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)
