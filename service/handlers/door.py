"""The short way for the one request that comes in floods: a plain `POST /jobs`.

Tornado's routing and its RequestHandler take longer than all that is done for a job, so this stands before them, on the
interface that Tornado has for it. Only accepted jobs are answered here. Whatever asks for more, or is refused, goes to
the application: every rule and every refusal is written down once.

    1  headers_received   is it plain? if not, the application has this request from here on
    2  data_received      its body
    3  finish             the job is stored, and answered; or a handler of the application says why not
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable

import msgspec
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

from service.handlers.base import JSON_TYPES, OWN_SITE, Handler, Server, id_of, standing_headers
from service.handlers.body import Submission, media_type, parse
from service.handlers.intake import job_of, key_of, put, receipt_headers, receipt_of
from service.keys import SUBMIT
from service.log import request_id

LINE = RequestStartLine("POST", "/jobs", "HTTP/1.1")
HOST = re.compile(r"[\w.:\[\]-]+", re.ASCII)  # what Tornado would look at more closely
LENGTH = re.compile(r"[0-9]{1,12}")
# Who sends one of these asks for what is not done here.
MORE = ("Prefer", "Content-Encoding", "Transfer-Encoding", "Expect")
ACCEPTED = ResponseStartLine("HTTP/1.1", 202, "Accepted")


class Refusal(Handler):
    """Says what was found wrong with a request that has been asked all that `prepare` would ask."""

    methods = ("POST",)

    def initialize(self, error: Exception) -> None:  # type: ignore[override]
        super().initialize()
        self._error = error

    def prepare(self) -> None:
        request_id.set(self.request_id)

    def post(self) -> None:
        raise self._error


class Door(HTTPServerConnectionDelegate):
    def __init__(self, server: Server, application: Application) -> None:
        self.server, self.application = server, application

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return Request(self, server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self.application.on_close(server_conn)

    def admits(self, line: RequestStartLine, headers: HTTPHeaders) -> str | None:
        """The client whose key was shown, "" where none is asked for. None: this is for the application."""
        get, server = headers.get, self.server
        plain = (
            line == LINE
            and not server.draining
            and HOST.fullmatch(get("Host", ""))
            and media_type(get("Content-Type", "")) in JSON_TYPES
            and get("Sec-Fetch-Site", "none") in OWN_SITE
            and LENGTH.fullmatch(length := get("Content-Length", ""))
            and int(length) <= server.config.body_max
            and not any(name in headers for name in MORE)
        )
        if not plain:
            return None
        if server.keys is None:
            return ""
        key = server.keys.find(get("Authorization", ""))
        return key.client if key and key.may(SUBMIT) else None


class Request(HTTPMessageDelegate):
    """One request."""

    def __init__(self, door: Door, server_conn: object, connection: HTTPConnection) -> None:
        self._door, self._server_conn, self._connection = door, server_conn, connection
        self._since = time.time()
        self._further: HTTPMessageDelegate | None = None  # the application's
        self._body = b""

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        self._line, self._headers = start_line, headers
        client = self._door.admits(start_line, headers)
        if client is None:
            self._further = self._door.application.start_request(self._server_conn, self._connection)
            return self._further.headers_received(start_line, headers)
        self._client = client
        return None

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
            self._further.finish()
        else:
            self._task = asyncio.create_task(self._accept())
            self._task.add_done_callback(asyncio.Task.result)  # a mistake of ours is logged

    async def _accept(self) -> None:
        server = self._door.server
        id = id_of(self._headers)
        request_id.set(id)
        try:
            submission: Submission = parse(self._body, Submission)
            key = key_of(self._headers, self._client)
            receipt = await put(server, job_of(submission, server.config, key), self._since)
        except Exception as error:
            return self._refuse(error)
        body = msgspec.json.encode(receipt_of(server, submission, receipt)) + b"\n"
        headers = standing_headers(server, id)
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(body))
        for name, value in receipt_headers(receipt):
            headers[name] = value
        self._connection.write_headers(ACCEPTED, headers, body)
        self._connection.finish()

    def _refuse(self, error: Exception) -> None:
        request = HTTPServerRequest(
            connection=self._connection,
            server_connection=self._server_conn,
            start_line=self._line,
            headers=self._headers,
        )
        application = self._door.application
        self._further = application.get_handler_delegate(request, Refusal, {"error": error})
        self._further.finish()
