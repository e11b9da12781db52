"""The short way for the one request that comes in floods: a plain `POST /jobs`.

Tornado's routing and its RequestHandler take longer than all that is done for a job, so this stands before them, on the
interface that Tornado has for it. Only accepted jobs are answered here. Whatever asks for more, or is refused, goes to
the application; a test sends everything both ways.

    1  headers_received   is it plain? if not, the application has this request from here on
    2  data_received      its body
    3  finish             the job is stored, and answered; or a handler of the application says why not
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable
from typing import cast

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application

from service.handlers.base import (
    FIXED_HEADERS,
    JSON_TYPES,
    Handler,
    Server,
    date,
    from_another_site,
    id_of,
    is_own_name,
)
from service.handlers.body import Submission, media_type, parse
from service.handlers.intake import job_of, key_of, put, receipt_headers, receipt_of
from service.handlers.jobs import Jobs
from service.job import Receipt
from service.log import request_id

log = logging.getLogger(__name__)

LINE = RequestStartLine("POST", "/jobs", "HTTP/1.1")
HOST = re.compile(r"[\w.:\[\]-]{1,255}", re.ASCII)
LENGTH = re.compile(r"[0-9]{1,12}")
# Who sends one of these asks for what is not done here.
MORE = ("Prefer", "Content-Encoding", "Transfer-Encoding", "Expect")
FIXED = "".join(f"{name}: {value}\r\n" for name, value in FIXED_HEADERS.items()) + "Content-Type: application/json\r\n"
CLOSE = "Connection: close\r\n"


class Refusal(Handler):
    """Says what was found wrong with a request that has been asked all that `prepare` would ask."""

    methods = ("POST",)

    def initialize(self, error: Exception) -> None:  # type: ignore[override]
        super().initialize()
        self._error = error

    def prepare(self) -> None:
        request_id.set(self.request_id)

    def post(self) -> None:
        try:
            raise self._error
        finally:
            del self._error  # it holds this through its traceback: a flood of refusals would stay until a collection


class Door(HTTPServerConnectionDelegate):
    def __init__(self, server: Server, application: Application) -> None:
        self.server, self.application = server, application

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return Request(self, server_conn, request_conn)

    def is_plain(self, line: RequestStartLine, headers: HTTPHeaders) -> bool:
        """Whether the application would ask nothing that is not asked here."""
        get = headers.get
        return bool(
            line == LINE
            and HOST.fullmatch(host := get("Host", ""))
            and (self.server.keys is not None or is_own_name(host))
            and media_type(get("Content-Type", "")) in JSON_TYPES
            and not from_another_site(headers)
            and LENGTH.fullmatch(length := get("Content-Length", ""))
            and int(length) <= self.server.config.body_max
            and get("Connection", "keep-alive").lower() == "keep-alive"
            and not any(name in headers for name in MORE)
        )

    def client(self, headers: HTTPHeaders) -> str | None:
        """Whose key is shown, "" where none is asked for; None where none is shown that may submit."""
        if self.server.keys is None:
            return ""
        key = self.server.keys.find(headers.get("Authorization", ""))
        return key.client if key and key.may(Jobs.scopes["POST"]) else None


class Request(HTTPMessageDelegate):
    """One request."""

    def __init__(self, door: Door, server_conn: object, connection: HTTPConnection) -> None:
        self._door, self._server_conn, self._connection = door, server_conn, connection
        self._further: HTTPMessageDelegate | None = None  # the application's
        self._body = bytearray()

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        self._since = time.time()
        self._line, self._headers = start_line, headers
        return None if self._door.is_plain(start_line, headers) else self._hand_over()

    def _hand_over(self) -> Awaitable[None] | None:
        self._further = self._door.application.start_request(self._server_conn, self._connection)
        return self._further.headers_received(self._line, self._headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._further:
            return self._further.data_received(chunk)
        self._body += chunk
        return None

    def on_connection_close(self) -> None:
        if self._further:
            self._further.on_connection_close()

    def finish(self) -> None:
        if self._further:
            return self._further.finish()
        client = self._door.client(self._headers)
        if client is None:
            self._hand_over()
            self.data_received(bytes(self._body))
            return self.finish()
        self._id = id_of(self._headers)
        request_id.set(self._id)
        self._task = asyncio.create_task(self._accept(client))
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.error("a request failed", exc_info=error)
            cast(HTTP1Connection, self._connection).close()  # no answer: the job may be on disk

    async def _accept(self, client: str) -> None:
        server = self._door.server
        try:
            submission: Submission = parse(bytes(self._body), Submission)
            job = job_of(submission, server.config, key_of(self._headers, client))
            receipt = await put(server, job, self._since)
        except Exception as error:
            return self._refuse(error)
        body = msgspec.json.encode(receipt_of(server, submission, receipt)) + b"\n"
        self._connection.write(self._head(receipt, len(body)).encode("ascii") + body)
        self._connection.finish()

    def _head(self, receipt: Receipt, length: int) -> str:
        """What `write_headers` would send, which takes a seventh of an accept to look at each header. `write` takes it
        as it is: all that is said here is ours, or was looked at before."""
        head = f"HTTP/1.1 202 Accepted\r\nX-Request-Id: {self._id}\r\nDate: {date(int(time.time()))}\r\n{FIXED}"
        head += f"Content-Length: {length}\r\n"
        for name, value in receipt_headers(receipt):
            head += f"{name}: {value}\r\n"
        return f"{head}{CLOSE if self._door.server.draining else ''}\r\n"

    def _refuse(self, error: Exception) -> None:
        request = HTTPServerRequest(
            connection=self._connection,
            server_connection=self._server_conn,
            start_line=self._line,
            headers=self._headers,
        )
        self._door.application.get_handler_delegate(request, Refusal, {"error": error}).finish()
