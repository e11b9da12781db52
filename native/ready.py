"""Whether the stack serves, asked by HTTP."""

from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.error
import urllib.request
from contextlib import closing, suppress
from pathlib import Path

from settings import BIND, PORT, server_socket

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would look for its own loopback
HERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(BIND, BIND)  # where this machine reaches what listens there
URL = f"http://{HERE}:{PORT}"

# Why a server can be up and say 503 all the same. It refuses jobs then, and runs those that it has.
FULL = ("/problems/backlog-full", "/problems/disk-full")


def answer(path: str) -> tuple[int, str]:
    try:
        with DIRECT.open(urllib.request.Request(URL + path, headers=authorization()), timeout=3) as response:
            return response.status, response.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()
    except OSError as error:
        return 0, str(error)


def authorization() -> dict[str, str]:
    key = os.environ.get("STORMDRAIN_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def server_ready(number: int) -> bool:
    """Asked past nginx, which would ask another."""
    connection = SocketConnection(server_socket(number))
    with suppress(OSError, http.client.HTTPException), closing(connection):
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return is_ready(response.status, response.read().decode())
    return False


class SocketConnection(http.client.HTTPConnection):
    """HTTP by a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=3)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def is_ready(status: int, body: str) -> bool:
    """Also when it is full: or what is full could not be started, and not be replaced."""
    with suppress(ValueError):
        return status == 200 or json.loads(body).get("type") in FULL
    return False
