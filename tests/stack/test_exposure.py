"""The stack on the bare machine, seen from outside: without keys nobody else reaches it, and all it says is inert."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from loadtest.contestant import Stack as Contestant
from service.handlers.base import FIXED_HEADERS
from tests.support import ROOT, free_port, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(200)]

ELSEWHERE = "127.0.0.2"  # loopback too, and not what is the default


class Stack:
    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self.folder, self.port, self.address = folder, free_port(), address
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        unset = dict.fromkeys(("BIND", "API_KEYS_FILE", "STORMDRAIN_KEY", "NAME", "SCOPES", "REVOKE"), "")
        ours = {"STACK": "native", "PORT": str(self.port), "VAR_DIR": str(folder / "var"), "PRODUCERS": "1"}
        self.environment = outside | unset | ours

    def make(self, *target: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--no-print-directory", *target],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
        """With its headers as they came, also one that came twice."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=10)
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer

    def raw(self, request: bytes) -> http.client.HTTPResponse:
        with socket.create_connection((self.address, self.port), timeout=10) as connection:
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            answer.read()
            return answer

    def log(self) -> str:
        return "".join(log.read_text(errors="replace") for log in (self.folder / "var/log").glob("*.log"))


@contextmanager
def up(it: Stack, *settings: str) -> Iterator[Stack]:
    done = it.make("up", *settings)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield it
    finally:
        it.make("down")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, since sockets are in it."""
    it = Path(f"/tmp/sd-exposed-{os.getpid()}")
    it.mkdir()
    yield it
    shutil.rmtree(it)


def listens(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def test_without_keys_it_does_not_start_where_others_reach_it(folder: Path) -> None:
    it = Stack(folder)
    refused = it.make("up", "BIND=0.0.0.0")
    assert refused.returncode != 0
    assert refused.stderr.count("BIND is 0.0.0.0, where others reach the server, and it asks for no key") == 1
    assert "set API_KEYS_FILE" in refused.stderr
    assert [file.name for file in folder.glob("var/run/*")] == ["alone.lock"]
    assert not listens("127.0.0.1", it.port)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["BIND=localhost"], "BIND is 'localhost': use an address"),
        (["BIND=0.0.0.0", "API_KEYS_FILE=/nowhere/keys"], "API_KEYS_FILE is /nowhere/keys, which cannot be read"),
    ],
)
def test_a_wrong_address_or_file_is_told_before_anything_starts(
    folder: Path, settings: list[str], sentence: str
) -> None:
    refused = Stack(folder).make("up", *settings)
    assert refused.returncode != 0
    assert sentence in refused.stderr
    assert [file.name for file in folder.glob("var/run/*")] == ["alone.lock"]


def test_keys_from_before_the_first_start_to_a_deployment(folder: Path) -> None:
    it, file = Stack(folder, ELSEWHERE), folder / "keys/api_keys"
    created = it.make("key", "NAME=shop", "SCOPES=submit,read", f"API_KEYS_FILE={file}")
    assert created.returncode == 0, created.stderr
    token = created.stdout.strip()
    assert token.startswith("shop-1.")
    assert len(token.split()) == 1
    settings = (f"BIND={ELSEWHERE}", f"API_KEYS_FILE={file}")
    with up(it, *settings):
        assert not listens("127.0.0.1", it.port)
        bearer = {"Authorization": f"Bearer {token}"}
        assert it.ask("GET", "/stats").status == 401
        assert it.ask("GET", "/stats", **bearer).status == 200
        assert it.ask("GET", "/", b'{"job_id": 7}').status == 401
        assert it.ask("GET", "/", b'{"job_id": 7}', **bearer).status == 200
        assert '"states":{' in it.make("status", *settings, f"STORMDRAIN_KEY={token}").stdout
        loaded = it.make("loadtest", *settings, f"STORMDRAIN_KEY={token}", "N=20", "CLIENTS=2", "JOB=noop")
        assert "accepted 20 = succeeded 20 " in loaded.stdout, loaded.stdout + loaded.stderr

        # What only this start was told would be gone in the next: servers without keys, behind an nginx for everybody.
        forgotten = it.make("deploy", f"API_KEYS_FILE={file}")
        assert forgotten.returncode != 0
        assert "BIND is not what the stack was started with" in forgotten.stderr
        forgotten = it.make("deploy", settings[0])
        assert forgotten.returncode != 0
        assert "API_KEYS_FILE is not set, and is where the stack runs" in forgotten.stderr

        assert it.make("key", "REVOKE=shop-1", f"API_KEYS_FILE={file}").returncode == 0
        wait_until(lambda: {it.ask("GET", "/stats", **bearer).status for _ in range(6)} == {401}, "revoked", 10)

        for spoilt in (b"\x01", b"\x7f", b"\r\nAuthorization: Bearer " + token.encode(), b"x" * 9000):
            line = f"Authorization: Bearer {token}".encode() + spoilt
            it.raw(b"GET /spoilt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + line + b"\r\n\r\n")
        wait_until(lambda: it.log().count("/spoilt") >= 3, "the log has told of them")
        everything = it.log() + (folder / "var/run/settings.json").read_text()
        assert token.partition(".")[2] not in everything
        assert "authorization" not in it.log().lower()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    place = Path(f"/tmp/sd-inert-{os.getpid()}")
    place.mkdir()
    try:
        with up(Stack(place), "BACKLOG_MAX=1", "SLOTS=1") as it:
            yield it
    finally:
        shutil.rmtree(place)


def assert_inert(answer: http.client.HTTPResponse, status: int) -> None:
    assert answer.status == status
    assert {name: answer.headers.get_all(name) for name in FIXED_HEADERS} == {
        name: [value] for name, value in FIXED_HEADERS.items()
    }
    assert "html" not in answer.headers.get("Content-Type", "")


REQUESTS: dict[int, list[tuple[str, str, dict[str, Any]]]] = {
    200: [("GET", "/stats", {}), ("HEAD", "/stats", {}), ("GET", "/healthz", {}), ("GET", "/readyz", {})],
    400: [("POST", "/jobs", {"body": b"<p>"}), ("GET", "/", {}), ("POST", "/", {"body": b"{"})],
    404: [("GET", "/nothing", {}), ("GET", "/jobs/%3Cp%3E", {}), ("GET", "/.problem/400", {})],
    405: [("PUT", "/", {}), ("TRACE", "/", {}), ("PUT", "/jobs", {}), ("BREW", "/nothing", {})],
    413: [("POST", "/jobs", {"body": b"x" * ((1 << 20) + 1)}), ("GET", "/", {"body": b"x" * ((1 << 20) + 1)})],
    414: [("GET", "/" + "x" * 9000, {})],
    422: [("POST", "/jobs", {"body": b'{"job": "noop", "args": {"<p>": 1}}'})],
}


@pytest.mark.parametrize(("status", "method", "path", "more"), [(s, *r) for s, all in REQUESTS.items() for r in all])
def test_every_answer_has_each_header_once(
    stack: Stack, status: int, method: str, path: str, more: dict[str, Any]
) -> None:
    assert_inert(stack.ask(method, path, Accept="text/html" if path != "/" else "*/*", **more), status)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\x01 nonsense\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: x\r\n\r\n",
        b"GET /stats HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET /stats HTTP/1.1\r\nHost: x\r\nX-Spoilt: \x01\r\nConnection: close\r\n\r\n",  # refused by Tornado, bare
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Spoilt: \x01\r\nConnection: close\r\n\r\n",  # and behind the second hop
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_so_too(stack: Stack, request_: bytes) -> None:
    assert_inert(stack.raw(request_), 400)


def test_the_page_keeps_the_policy_that_is_its_own(stack: Stack) -> None:
    page = stack.ask("GET", "/", Accept="text/html")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    (policy,) = page.headers.get_all("Content-Security-Policy") or []
    assert "style-src 'sha256-" in policy
    for name in set(FIXED_HEADERS) - {"Content-Security-Policy"}:
        assert page.headers.get_all(name) == [FIXED_HEADERS[name]]


def test_a_full_backlog_is_told_so_too(stack: Stack) -> None:
    body = b'{"job": "sleep", "args": {"seconds": 3}}'
    answers = [stack.ask("POST", "/jobs", body) for _ in range(10)]
    full = [answer for answer in answers if answer.status == 503]
    assert full
    for answer in full:
        assert_inert(answer, 503)
        assert answer.headers["Retry-After"]


def reload(stack: Stack) -> None:
    os.kill(int((stack.folder / "var/nginx/nginx.pid").read_text()), signal.SIGHUP)


def test_too_many_requests_and_no_producer_are_told_so_too(stack: Stack) -> None:
    """Last: it spoils the stack."""
    place = stack.folder / "var"
    for socket_file in place.glob("run/server_*.sock"):
        socket_file.rename(f"{socket_file}.away")
    try:
        reload(stack)  # or the connections that are open would be used on
        wait_until(lambda: stack.ask("GET", "/healthz").status == 502, "there are only new workers", 20)
        for method, path, body in (("GET", "/stats", b""), ("POST", "/jobs", b"{}"), ("GET", "/", b"{}")):
            answer = stack.ask(method, path, body)
            assert_inert(answer, 502)
            assert answer.headers.get_all("Retry-After") == ["1"]
    finally:
        for socket_file in place.glob("run/server_*.away"):
            socket_file.rename(str(socket_file).removesuffix(".away"))

    for name, many, few in (("limits", "rate=20000r/s", "rate=1r/m"), ("server", "burst=5000", "burst=1")):
        include = place / f"nginx/{name}.conf"
        text = include.read_text()
        assert many in text
        include.unlink()  # a link to the one that everybody uses
        include.write_text(text.replace(many, few))
    reload(stack)
    wait_until(lambda: stack.ask("GET", "/healthz").status == 429, "too many", 20)
    for path in ("/stats", "/"):
        answer = stack.ask("GET", path)
        assert_inert(answer, 429)
        assert answer.headers.get_all("Retry-After") == ["1"]


def test_what_starts_a_stack_of_its_own_leaves_the_users_keys_aside(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make chaos` and `make stages` have no key."""
    monkeypatch.setenv("BIND", "0.0.0.0")
    monkeypatch.setenv("API_KEYS_FILE", "/nowhere/keys")
    it = Contestant(str(folder / "var"), {"PRODUCERS": "1"})
    try:
        assert f"ready: {it.url}" in it.make("up")
    finally:
        it.make("down")
