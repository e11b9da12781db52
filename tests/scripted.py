"""A small real HTTP server that answers as each test says, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

ENOUGH = 30.0  # seconds after which what hangs is a failure


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    at: float  # monotonic seconds


class Reply(NamedTuple):
    """`status` 0: hang up without an answer; `cut`: hang up in the middle of the body."""

    status: int
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012
    cut: bool = False


HANG_UP = Reply(0)


class Script(ThreadingHTTPServer):
    """`answer(asked, n)` is the reply to the n-th request, counted from 0."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answer: Callable[[Asked, int], Reply] = lambda asked, n: Reply(404)
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.released = threading.Event()  # for answers that hang; set at the end

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def replies(self, *replies: Reply) -> None:
        """One after the other; the last of them for ever."""
        self.answer = lambda asked, n: replies[min(n, len(replies) - 1)]

    def reply(self, asked: Asked) -> Reply:
        with self.lock:
            self.asked.append(asked)
            n = len(self.asked) - 1
        return self.answer(asked, n)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    server: Script
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = json.loads(body) if body else None
        reply = self.server.reply(Asked(self.command, self.path, dict(self.headers), told, time.monotonic()))
        if not reply.status:
            self.close_connection = True
            return
        text = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(text) + reply.cut)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)
        self.close_connection |= reply.cut

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def script(port: int = 0) -> Iterator[Script]:
    with Script(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
