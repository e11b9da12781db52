"""POST /jobs with application/x-ndjson: one job a line, any number of lines, a receipt for each, in order.

    1  prepare         lift the limits on the body; refuse what is no such request
    2  data_received   put the lines that have come, keep their receipts; only then is more read
    3  post            the last line, and the answer: all receipts

An answer that is whole tells of every line: one without a receipt was not looked at. Of one that is cut, or never
comes, all is unknown.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio import Future
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.routing import PathMatches
from tornado.web import stream_request_body

from service.errors import Malformed, ShuttingDown, StoreError, StoreFull
from service.front import Connection
from service.handlers.base import Handler
from service.handlers.body import media_type
from service.handlers.bulk import Bulk
from service.handlers.lines import Lines
from service.handlers.receipts import Receipts
from service.log import request_id

log = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"
WINDOW = 256  # lines that wait for their commit together; half of what goes into one, so that others get in too
# Seconds without a byte, in or out, after which a client is given up. Longer than nginx's 10 (nginx/timeouts.conf), or
# it would at times be nginx that answers, with a 502, as if there were no producer.
SILENCE = 15.0
LINGER = 2.0  # seconds between an answer before the body's end and the end of the connection


class PostsNdjson(PathMatches):
    """This path, where lines are posted to it."""

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        found = super().match(request)
        kind = media_type(request.headers.get("Content-Type", ""))
        return found if request.method == "POST" and kind == NDJSON else None


@stream_request_body
class Ndjson(Handler):
    methods = ("POST",)

    def initialize(self) -> None:
        super().initialize()
        config = self.server.config
        self._connection = cast(HTTP1Connection, self.request.connection)
        self._stream = cast(Connection, self._connection.stream)
        self._lines = Lines(config.body_max)
        self._receipts = Receipts(config.folder, config.disk_reserve)
        self._bulk = Bulk(self.server, self.request_id)
        self._begun = self._body_over = self._answered = False
        self._outcome = "the client is gone"
        self._timer: asyncio.TimerHandle | None = None

    def prepare(self) -> None:
        # First: a body above the limit would get a second answer, by Tornado.
        self._connection.set_max_body_size(sys.maxsize)
        self._stream.unlimited = True
        super().prepare()
        if "Idempotency-Key" in self.request.headers:
            raise Malformed("an Idempotency-Key stands for one job: send those jobs one by one, as application/json")
        self.refuse_compressed()
        if self.server.draining:
            raise ShuttingDown("no line was looked at: send them again")
        self.server.streams.begin()
        self._begun = True
        self._later(SILENCE, self._give_up)

    async def data_received(self, chunk: bytes) -> None:
        if self._answered:
            return
        request_id.set(self.request_id)  # this is another task than the one of prepare
        self._no_more_waiting()
        with self._cut_short():
            lines = self._lines.feed(chunk)
            self._stream.maybe_stored |= bool(lines)
            await self._take(lines)
            if not self._answered:
                self._later(SILENCE, self._give_up)

    async def post(self) -> None:
        self._body_over = True
        self._no_more_waiting()
        try:
            if not self._answered:
                with self._cut_short():
                    await self._receipts.add(await self._bulk.put(self._lines.end()))
                    await self._answer()
        finally:
            self._end()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if not self._body_over:  # or post is under way, and notices by itself
            self._end()

    def finish(self, chunk: Any = None) -> Future[None]:
        """Before the body is over, nginx may still be sending it: it would take the end of the connection for a
        failure, and not look at the answer. So that end comes a little later."""
        if self._body_over:
            return super().finish(chunk)
        if not self._answered:
            self._answered = True
            self._later(LINGER, super().finish)
        if chunk is not None:
            self.set_header("Content-Length", str(len(chunk)))
            self.set_header("Connection", "close")
            self.write(chunk)
        return self.flush()

    def _end(self) -> None:
        self._no_more_waiting()
        self._receipts.close()
        if self._begun:
            self._begun = False
            self.server.streams.end()
            log.info("%d lines, of which %d were accepted: %s", self._bulk.count, self._bulk.accepted, self._outcome)

    def _later(self, seconds: float, do: Callable[[], object]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, do)

    def _no_more_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _give_up(self) -> None:
        self._outcome = f"nothing came for {SILENCE:g} s"
        self._connection.close()

    @contextmanager
    def _cut_short(self) -> Iterator[None]:
        """Whatever fails here leaves receipts that nobody gets: the answer must not look whole."""
        try:
            yield
        except (StreamClosedError, TimeoutError, StoreFull) as error:
            self._outcome = f"the answer was cut: {error!r}"
            self._connection.close()
        except Exception:
            log.exception("a request with lines failed")
            self._outcome = "the answer was cut"
            self._connection.close()

    async def _take(self, lines: Sequence[bytes | None]) -> None:
        self._bulk.chunk()
        for first in range(0, len(lines), WINDOW):
            await self._receipts.add(await self._bulk.put(lines[first : first + WINDOW]))
            reason = self._reason_to_stop()
            if reason:
                await self._receipts.add(self._bulk.receipt(self._bulk.count + 1, reason))
                return await self._answer()

    def _reason_to_stop(self) -> StoreError | None:
        """Why the answer is given before the body is over."""
        if self.server.streams.over:
            return ShuttingDown("this line and those after it were not looked at: send them again")
        if self._receipts.low:
            return StoreFull("this line and those after it were not looked at: there is no room for their receipts")
        return None

    async def _answer(self) -> None:
        self.set_header("Content-Type", NDJSON)
        self.set_header("Content-Length", str(self._receipts.size))
        if self.server.draining or not self._body_over:
            self.set_header("Connection", "close")
        async for piece in self._receipts.pieces():
            self.write(piece)
            async with asyncio.timeout(SILENCE):
                await self.flush()
        self.finish()
        self._outcome = "answered"
