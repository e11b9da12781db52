"""Clients that send drop by drop, or nothing: others are served meanwhile, and the slow ones are closed.

Raw sockets, before the whole stack on the bare machine and before the server alone."""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.native import Stack

pytestmark = pytest.mark.stack

LIMIT = 10.0  # seconds, in nginx/timeouts.conf and in the producer
SLACK = 10.0  # seconds; the machine is shared
BODY = b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@dataclass
class Slow:
    """One client: what it sends first, and then every second."""

    kind: str
    socket: socket.socket
    first: bytes
    drop: bytes
    closed_after: float | None = None


# How many, what they send at once, and what every second.
KINDS: dict[str, tuple[int, bytes, bytes]] = {
    "nothing at all": (300, b"", b""),
    "headers drop by drop": (30, b"POST /jobs HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"x"),
    "headers that stop": (30, b"POST /jobs HTTP/1.1\r\nHost: x\r\n", b""),
    "a body that stops": (30, BODY + b'{"job": "noop", ', b""),
}
# nginx limits the time between two drops of a body, the server alone the time for all of it.
BEHIND = {**KINDS, "a body drop by drop": (30, BODY, b"x")}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = Path(f"/tmp/stormdrain-slow-{os.getpid()}")  # short, since sockets are in it
    folder.mkdir()
    it = Stack(folder)
    up = it.make("up")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield it
    finally:
        it.make("down")
        shutil.rmtree(folder)


def watch(clients: list[Slow], seconds: float) -> None:
    """Send what they send, and note when each is closed, until all are or the time is over."""
    started = last = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for client in clients:
            client.socket.sendall(client.first)
            client.socket.setblocking(False)
            selector.register(client.socket, selectors.EVENT_READ, client)
        while selector.get_map() and (now := time.monotonic()) < started + seconds:
            for key, _ in selector.select(0.1):
                if closed(key.data.socket):
                    key.data.closed_after = time.monotonic() - started
                    selector.unregister(key.data.socket)
            if now - last >= 1.0:
                last = now
                for key in selector.get_map().values():
                    with suppress(OSError):
                        key.data.socket.send(key.data.drop)


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(65536) == b""
    except BlockingIOError:
        return False
    except OSError:  # reset
        return True


class Others(threading.Thread):
    """Everybody else, meanwhile: how long each answer took."""

    def __init__(self, request: Callable[[], None]) -> None:
        super().__init__()
        self._request, self._stop_it = request, threading.Event()
        self.seconds: list[float] = []

    def run(self) -> None:
        while not self._stop_it.wait(0.1):
            started = time.monotonic()
            self._request()
            self.seconds.append(time.monotonic() - started)

    def stop(self) -> None:
        self._stop_it.set()
        self.join()


def closed_and_others_served(
    kinds: dict[str, tuple[int, bytes, bytes]], connect: Callable[[], socket.socket], request: Callable[[], None]
) -> None:
    clients = [Slow(kind, connect(), first, drop) for kind, (n, first, drop) in kinds.items() for _ in range(n)]
    others = Others(request)
    others.start()
    try:
        watch(clients, LIMIT + SLACK)
    finally:
        others.stop()
        for client in clients:
            client.socket.close()
    never = {client.kind for client in clients if client.closed_after is None}
    assert not never, f"not closed within {LIMIT + SLACK:g} s: {never}"
    soonest = min(client.closed_after for client in clients if client.closed_after)
    assert soonest > LIMIT / 2, f"closed after {soonest:.1f} s: a slow network is no attack"
    assert len(others.seconds) > 20
    # Who had to wait for the slow ones would wait for LIMIT.
    assert max(others.seconds) < 6.0, f"an answer took {max(others.seconds):.2f} s"
    assert statistics.median(others.seconds) < 0.5


def test_slow_clients_before_nginx_are_closed_and_others_are_served(stack: Stack) -> None:
    def request() -> None:
        assert requests.post(f"{stack.url}/jobs", json={"job": "noop"}, timeout=10).status_code == 202
        assert requests.get(f"{stack.url}/healthz", timeout=10).status_code == 200

    closed_and_others_served(KINDS, lambda: socket.create_connection(("127.0.0.1", stack.port), timeout=5), request)


def test_slow_clients_before_the_server_alone_are_closed_and_others_are_served(stack: Stack) -> None:
    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect(str(stack.folder / "run/server_0.sock"))
        return connection

    def request() -> None:
        with connect() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in connection.recv(65536)

    closed_and_others_served(BEHIND, connect, request)
