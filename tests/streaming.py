"""A client that sends lines as it likes, and reads when it likes."""

from __future__ import annotations

import http.client
import json
import select
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from tests.support import Client

NDJSON = {"Content-Type": "application/x-ndjson"}
TRIES = 3  # of what says nothing where the machine stood still
SLEEP = {"job": "sleep", "args": {"seconds": 3600}}


def lines_of(*jobs: Any) -> bytes:
    return b"".join(json.dumps(job).encode() + b"\n" for job in jobs)


def noops(count: int, first: int = 0) -> bytes:
    return b"".join(b'{"job":"noop","args":{"job_id":%d}}\n' % n for n in range(first, first + count))


class Stream:
    """One request with a chunked body."""

    def __init__(self, port: int, buffer: int | None = None) -> None:
        """`buffer` is bytes of the answer that the kernel takes for us."""
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", port))
        self.id = uuid4().hex
        self.socket.sendall(
            b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
            b"X-Request-ID: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % self.id.encode()
        )

    def send(self, data: bytes) -> None:
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def send_until_answered(self) -> tuple[int, float]:
        """Lines, and seconds from the last one to the answer."""
        sent, last = 0, time.monotonic()
        while not self.answered():
            last = time.monotonic()
            self.send(noops(1))
            sent += 1
            time.sleep(0.02)
        return sent, time.monotonic() - last

    def answer(self) -> Answer:
        response = http.client.HTTPResponse(self.socket, method="POST")
        with suppress(ConnectionError):
            response.begin()
            return Answer(response)
        return Answer(None)

    def answered(self) -> bool:
        """Whether there is something to read."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def closed(self) -> bool:
        """Whether the other side has closed, without an answer."""
        self.socket.settimeout(0.01)
        try:
            return self.socket.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            self.socket.settimeout(60)


class Answer:
    """What came of it, as far as it came."""

    def __init__(self, response: http.client.HTTPResponse | None) -> None:
        self.response, self.status, self.whole = response, response.status if response else 0, False
        self._rest = b""

    def receipts(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Those that came in one piece, about `limit` bytes of them."""
        for piece in self._pieces(limit):
            *lines, self._rest = (self._rest + piece).split(b"\n")
            yield from map(json.loads, lines)

    def _pieces(self, limit: int | None) -> Iterable[bytes]:
        try:
            while self.response and (limit is None or limit > 0):
                piece = self.response.read(65536 if limit is None else min(limit, 65536))
                if not piece:
                    self.whole = not self.response.length
                    return
                limit = None if limit is None else limit - len(piece)
                yield piece
        except (OSError, http.client.IncompleteRead):
            return


@contextmanager
def stream(client: Client, buffer: int | None = None) -> Iterator[Stream]:
    it = Stream(int(client.url.rpartition(":")[2]), buffer)
    try:
        yield it
    finally:
        it.socket.close()


def ids(receipts: Iterable[dict[str, Any]]) -> list[str]:
    return [receipt["id"] for receipt in receipts if "id" in receipt]


def statuses(receipts: Iterable[dict[str, Any]]) -> list[int]:
    """Of each line; 0 where it is a job."""
    return [receipt["problem"]["status"] if "problem" in receipt else 0 for receipt in receipts]
