"""Tornado's server, on connections that add what it leaves out: what is no HTTP is refused with a problem, the refusal
arrives, and nothing that stands behind a `Connection: close` is taken for a request.

nginx passes on what it does not mind itself, a control character in a header for instance, and our answer as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import msgspec
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError

from service.errors import Malformed

BARE = b"HTTP/1.1 400 Bad Request\r\n\r\n"  # what Tornado says of a request that it cannot read; then it closes
LINGER = 1.0  # seconds in which the rest of such a request is read


class Front(HTTPServer):
    def handle_stream(self, stream: IOStream, address: Any) -> None:
        super().handle_stream(Connection(stream.socket, max_buffer_size=self.max_buffer_size), address)


class Connection(IOStream):
    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._refuse()) if data == BARE else super().write(data)

    async def _refuse(self) -> None:
        await super().write(refusal())
        # Closed with something unread, the connection is reset, and the answer lost: nginx would say 502.
        with suppress(StreamClosedError, TimeoutError):
            async with asyncio.timeout(LINGER):
                while True:
                    await self.read_bytes(65536, partial=True)

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
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
