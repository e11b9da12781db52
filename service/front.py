"""Tornado's server, on connections that add what it leaves out: what is no HTTP is refused with a problem, the refusal
arrives, and nothing that stands behind a `Connection: close` is taken for a request.

nginx passes on what it does not mind itself, a control character in a header for instance, and our answer as it is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any
from uuid import uuid4
from weakref import WeakSet

import msgspec
from tornado.httpserver import HTTPServer
from tornado.ioloop import PeriodicCallback
from tornado.iostream import IOStream, StreamClosedError

from service.errors import Malformed

BARE = b"HTTP/1.1 400 Bad Request\r\n\r\n"  # what Tornado says of a request that it cannot read; then it closes
LOOK = 1.0  # seconds between looks for clients that are too slow
LINGER = 1.0  # seconds in which the rest of such a request is read


class Front(HTTPServer):
    def initialize(self, *arguments: Any, patience: float, **named: Any) -> None:  # type: ignore[override]
        """`patience` is seconds: longer than that no client takes for the head of a request, and again for its body.
        Tornado's own limits set two timers for each request, and take a tenth of all that is done for it."""
        super().initialize(*arguments, **named)
        self.conn_params.header_timeout = None  # no argument says so
        self._patience = patience
        self._open: WeakSet[Connection] = WeakSet()
        self._look = PeriodicCallback(self._close_slow, 1000 * LOOK)
        self._look.start()

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        connection = Connection(stream.socket, max_buffer_size=self.max_buffer_size)
        self._open.add(connection)
        super().handle_stream(connection, address)

    def _close_slow(self) -> None:
        for connection in list(self._open):
            if connection.waited() > self._patience:
                connection.close()

    def stop(self) -> None:
        super().stop()
        self._look.stop()


class Connection(IOStream):
    unlimited = False  # the body of this request may take as long as it likes
    maybe_stored = False  # a part of this request; a refusal would say that nothing is
    _since = math.inf  # when we began to read the head of a request, or then its body
    _at_head = True

    def waited(self) -> float:
        """Seconds, for what is not there yet."""
        return time.monotonic() - self._since if self.reading() and not self.unlimited else 0.0

    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._refuse()) if data == BARE else super().write(data)

    async def _refuse(self) -> None:
        if self.maybe_stored:
            return
        await super().write(refusal())
        # Closed with something unread, the connection is reset, and the answer lost: nginx would say 502.
        with suppress(StreamClosedError, TimeoutError):
            async with asyncio.timeout(LINGER):
                while True:
                    await self.read_bytes(65536, partial=True)

    def read_bytes(self, num_bytes: int, partial: bool = False) -> Awaitable[bytes]:
        self._at_body()
        return super().read_bytes(num_bytes, partial)

    def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        self._at_body()
        return super().read_until(delimiter, max_bytes)

    def _at_body(self) -> None:
        if self._at_head:
            self._since, self._at_head = time.monotonic(), False

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        self._since, self._at_head = time.monotonic(), True
        self.unlimited = self.maybe_stored = False
        if self.closed():  # by us, and what was read before is still here (RFC 9112, section 9.6)
            raise StreamClosedError
        return super().read_until_regex(regex, max_bytes)


def refusal() -> bytes:
    problem = {"type": f"/problems/{Malformed.slug}", "title": Malformed().title, "status": Malformed.status}
    told = {"detail": "this is not HTTP as it should be", "instance": uuid4().hex}
    body = msgspec.json.encode(problem | told) + b"\n"
    return (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nX-Content-Type-Options: nosniff\r\n"
        b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
