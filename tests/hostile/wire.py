"""Bytes over a socket, and the answers in what came back."""

from __future__ import annotations

import http.client
import io
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

Connect = Callable[[], socket.socket]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass
class Exchange:
    """What came back, after how many seconds, and whether the other side has closed the connection."""

    received: bytes
    seconds: float
    closed: bool
    answers: list[Answer] = field(default_factory=list)

    @property
    def statuses(self) -> list[str]:
        """As the corpus names them."""
        if self.answers:
            return [str(answer.status) for answer in self.answers]
        return ["0.9" if self.received else "-"]


def to_port(port: int) -> Connect:
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=5)


def to_socket(path: Path) -> Connect:
    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect(str(path))
        return connection

    return connect


def exchange(connect: Connect, request: bytes, patience: float) -> Exchange:
    """Send, and read until the other side closes the connection, or `patience` seconds are over."""
    started = time.monotonic()
    with connect() as connection:
        received, closed = _talk(connection, request, started + patience)
    seconds = time.monotonic() - started
    return Exchange(received, seconds, closed, parse(received, request.lstrip().split(b" ")[0] == b"HEAD"))


def _talk(connection: socket.socket, request: bytes, deadline: float) -> tuple[bytes, bool]:
    """Both at once: who refuses a large body answers before it has all of it."""
    connection.setblocking(False)
    received, rest = bytearray(), memoryview(request)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while (left := deadline - time.monotonic()) > 0:
            for _, events in selector.select(left):
                if events & selectors.EVENT_READ:
                    try:
                        data = connection.recv(1 << 16)
                    except ConnectionResetError:
                        data = b""
                    if not data:
                        return bytes(received), True
                    received += data
                if events & selectors.EVENT_WRITE:
                    with suppress(BlockingIOError):
                        try:
                            rest = rest[connection.send(rest[: 1 << 16]) :]
                        except (BrokenPipeError, ConnectionResetError):
                            rest = rest[:0]
                    if not rest:
                        selector.modify(connection, selectors.EVENT_READ)
    return bytes(received), False


class _Received(io.BytesIO):
    """As http.client wants it: a socket of which a file can be made, which it may close."""

    def makefile(self, mode: str) -> _Received:
        return self

    def close(self) -> None:
        """There may be another answer behind this one."""


def parse(received: bytes, head: bool = False) -> list[Answer]:
    """Raises http.client.HTTPException for what is no answer, unless it comes without any status line at all."""
    source, answers = _Received(received), []
    if not received.startswith(b"HTTP/"):
        return []
    while source.tell() < len(received):
        response = http.client.HTTPResponse(source, method="HEAD" if head else "GET")  # type: ignore[arg-type]
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        answers.append(Answer(response.status, headers, response.read()))
    return answers
