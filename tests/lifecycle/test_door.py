"""A plain submit has a way of its own. It lets nobody in whom the application would not, and answers as that does."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from service import keyfile
from tests.support import Server, server, wait_until

JOB = b'{"job": "noop"}'
BY_THE_APPLICATION = {"Prefer": "respond-async"}  # which changes nothing else
APPLIED = "Preference-Applied"
OWN = ("Date", "X-Request-Id", "Location", "Content-Length")  # each answer's
PROBLEM = ("type", "title", "status", "detail", "known", "job")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "api_keys"


@pytest.fixture(scope="module")
def tokens(file: Path) -> dict[str, str]:
    return {scope: keyfile.create(file, scope, scope) for scope in ("submit", "read")}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, file: Path, tokens: dict[str, str]) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("locked"), API_KEYS_FILE=str(file), PRODUCERS="1") as it:
        yield it


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("server"), PRODUCERS="1") as it:
        yield it


def connect(it: Server) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection(urlsplit(it.url).netloc, timeout=10))


def seen(it: Server, body: bytes, headers: dict[str, str]) -> tuple[int, list[tuple[str, str]], dict[str, object]]:
    """Status, the headers, and of a problem what does not name the request."""
    with connect(it) as connection:
        connection.request("POST", "/jobs", body, {"Content-Type": "application/json"} | headers)
        response = connection.getresponse()
        document = json.loads(response.read())
    named = sorted((name, value if name not in OWN else "") for name, value in response.getheaders() if name != APPLIED)
    told = document if response.status >= 400 else dict.fromkeys(document)
    return response.status, named, {name: told[name] for name in told if name in PROBLEM or response.status < 400}


BODIES: dict[str, bytes] = {
    "accepted": JOB,
    "with all": b'{"job": "noop", "args": {"job_id": 1}, "delay": 60, "priority": 3, "attempts": 2, "expires_in": 90}',
    "no JSON": b"{",
    "nothing": b"",
    "a name twice": b'{"job": "noop", "job": "noop"}',
    "no UTF-8": b'{"job": "\xff"}',
    "deep": b"[" * 5000,
    "another shape": b"[]",
    "no such job": b'{"job": "nope"}',
    "no such argument": b'{"job": "noop", "args": {"x": 1}}',
    "out of range": b'{"job": "noop", "priority": 1000}',
    "a callback": b'{"job": "noop", "callback": "http://127.0.0.1/"}',
    "too large": b'{"job": "noop", "args": {"job_id": "' + b"x" * (1 << 20) + b'"}}',
}
HEADERS: dict[str, dict[str, str]] = {
    "as a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "as a text": {"Content-Type": "text/plain"},
    "as another charset": {"Content-Type": "application/json; charset=latin-1"},
    "compressed": {"Content-Encoding": "gzip"},
    "from another site": {"Sec-Fetch-Site": "cross-site"},
    "from its own": {"Sec-Fetch-Site": "same-origin"},
    "a bad key": {"Idempotency-Key": "a b"},
    "a request id": {"X-Request-ID": "mine"},
    "a bad request id": {"X-Request-ID": "m\u00e4ine;"},
    "the last on its connection": {"Connection": "close"},
    "an odd host": {"Host": "a_b"},
    "a host with a port beyond all": {"Host": f"a:{'9' * 5000}"},
    "two hosts": {"Host": "a, b"},
    "a public host": {"Host": "page.example:80"},
    "a page's origin": {"Origin": "http://page.example"},
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_answered_as_the_application_answers(running: Server, name: str) -> None:
    assert seen(running, BODIES[name], {}) == seen(running, BODIES[name], BY_THE_APPLICATION)


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("body", [JOB, b"{"], ids=["a job", "no JSON"])
def test_a_header_is_answered_as_the_application_answers(running: Server, name: str, body: bytes) -> None:
    try:
        expected = seen(running, body, HEADERS[name] | BY_THE_APPLICATION)
    except http.client.RemoteDisconnected:
        with pytest.raises(http.client.RemoteDisconnected):
            seen(running, body, HEADERS[name])
    else:
        assert seen(running, body, HEADERS[name]) == expected


@pytest.mark.parametrize("who", ["submit", "read", "nobody", "nonsense"])
def test_a_key_is_asked_for_as_the_application_asks(locked: Server, tokens: dict[str, str], who: str) -> None:
    token = {"nonsense": "a.b"}.get(who) or tokens.get(who)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    came = seen(locked, JOB, headers)
    assert came == seen(locked, JOB, headers | BY_THE_APPLICATION)
    assert came[0] == {"submit": 202, "read": 403}.get(who, 401)


def test_a_key_that_is_revoked_while_a_body_comes_is_none(locked: Server, file: Path) -> None:
    token = keyfile.create(file, "gone", "submit")
    headers = {"Authorization": f"Bearer {token}"}
    with socket.create_connection(address(locked), timeout=10) as it:
        it.sendall(f"POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Length: {len(JOB)}\r\n".encode())
        it.sendall(f"Authorization: Bearer {token}\r\n\r\n".encode() + JOB[:5])
        assert requests.get(f"{locked.url}/stats", headers=headers).status_code == 403  # the head has been read by then
        keyfile.revoke(file, "gone-1")
        it.sendall(JOB[5:])
        assert it.recv(100).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("way", [{}, BY_THE_APPLICATION], ids=["plain", "by the application"])
def test_while_draining_a_job_is_accepted_and_the_connection_ends(tmp_path: Path, way: dict[str, str]) -> None:
    with (
        server(tmp_path, PRODUCERS="1", DRAIN="30") as it,
        requests.Session() as session,
        requests.Session() as other,
    ):
        it.wait_for(running := it.submit("sleep", seconds=60), "running")
        assert other.get(f"{it.url}/healthz", timeout=5).status_code == 200  # connected: in a drain nobody gets in
        assert "Connection" not in session.post(f"{it.url}/jobs", JOB, headers=way, timeout=5).headers
        it.process.terminate()
        wait_until(lambda: "draining" in it.log.read_text(), "it drains")
        answer = session.post(f"{it.url}/jobs", JOB, headers=way, timeout=5)
        assert (answer.status_code, answer.headers["Connection"]) == (202, "close")
        assert other.delete(it.url + running, timeout=5).status_code == 202  # or the drain would wait for its end
        assert it.process.wait(20) == 0


def address(it: Server) -> tuple[str, int]:
    parts = urlsplit(it.url)
    return parts.hostname or "", parts.port or 0


def test_the_time_between_two_requests_of_a_connection_is_not_the_time_of_an_accept(running: Server) -> None:
    def sums() -> tuple[float, float]:
        text = requests.get(f"{running.url}/metrics").text
        values = [re.search(rf"^stormdrain_accept_seconds_{it} (\S+)$", text, re.MULTILINE) for it in ("sum", "count")]
        total, count = (float(value[1]) if value else 0.0 for value in values)
        return total, count

    before, asked = sums(), 0.0
    with connect(running) as connection:
        for pause in (0.0, 1.0):
            time.sleep(pause)  # what is not to be counted
            began = time.monotonic()
            connection.request("POST", "/jobs", JOB)
            assert connection.getresponse().read()
            asked += time.monotonic() - began
    after = wait_until(lambda: (now := sums())[1] >= before[1] + 2 and now, "both are counted")
    assert after[0] - before[0] < asked
