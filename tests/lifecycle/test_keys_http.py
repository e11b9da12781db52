"""Keys and scopes against a real server: who gets in, what changes while it serves, and what is never written down."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from service import keyfile
from tests.support import Server, free_port, server, wait_until

JOB = {"job": "noop", "args": {}}
UNKNOWN = "/jobs/01890000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "api_keys"


@pytest.fixture(scope="module")
def tokens(file: Path) -> dict[str, str]:
    """By scope."""
    return {scope: keyfile.create(file, scope, scope) for scope in ("submit", "read", "admin")}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, file: Path, tokens: dict[str, str]) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("server"), API_KEYS_FILE=str(file), LOG_LEVEL="debug") as it:
        yield it


def ask(it: Server, method: str, path: str, token: str | None, **more: Any) -> requests.Response:
    headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token is not None else {})
    return requests.request(method, it.url + path, headers=headers, timeout=10, **more)


REQUESTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", "/jobs", {"json": JOB}, "submit"),
    ("POST", "/jobs", {"data": "not JSON"}, "submit"),
    ("POST", "/jobs", {"data": "x" * ((1 << 20) + 1)}, "submit"),
    ("POST", "/jobs", {"data": '{"job": "noop"}\n', "headers": {"Content-Type": "application/x-ndjson"}}, "submit"),
    ("GET", "/", {"data": '{"job_id": 7}'}, "submit"),
    ("POST", "/", {"data": '{"job_id": 7}'}, "submit"),
    ("GET", "/", {"headers": {"Accept": "text/html"}}, "read"),
    ("POST", "/", {}, "read"),  # as nginx hands on a GET without a body
    ("HEAD", "/", {}, "read"),
    ("GET", UNKNOWN, {}, "read"),
    ("GET", "/jobs", {}, "read"),
    ("GET", f"{UNKNOWN}/events", {}, "read"),
    ("DELETE", UNKNOWN, {}, "admin"),
    ("POST", f"{UNKNOWN}/retry", {}, "admin"),
    ("POST", "/jobs/retry", {"json": {"state": "failed"}}, "admin"),
    ("GET", "/jobs/retry", {}, "any"),
    ("GET", "/stats", {}, "read"),
    ("HEAD", "/stats", {}, "read"),
    ("GET", "/metrics", {}, "read"),
    ("GET", "/openapi.json", {}, "read"),
    ("GET", "/docs", {}, "read"),
    ("GET", "/nothing", {}, "any"),
    ("POST", "/nothing", {"json": JOB}, "any"),
    ("DELETE", "/nothing", {}, "any"),
    ("PUT", "/jobs", {}, "any"),
    ("DELETE", "/stats", {}, "any"),
    ("OPTIONS", "/jobs", {}, "any"),
    ("BREW", "/jobs", {}, "any"),
    ("BREW", "/nothing", {}, "any"),
]


@pytest.mark.parametrize(("method", "path", "more", "scope"), REQUESTS)
def test_a_request_needs_a_key_with_its_scope(
    running: Server, tokens: dict[str, str], method: str, path: str, more: dict[str, Any], scope: str
) -> None:
    for token in (None, "", "nobody-1.secret", tokens["admin"] + "x", tokens["admin"].replace("admin", "read")):
        refused = ask(running, method, path, token, **dict(more))
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert refused.headers["Content-Type"] == "application/problem+json"
        if method != "HEAD":
            assert refused.json()["type"] == "/problems/no-key"
    for name, token in tokens.items():
        answer = ask(running, method, path, token, **dict(more))
        if name in ("admin", scope) or scope == "any":
            assert answer.status_code not in (401, 403)
            continue
        assert answer.status_code == 403
        if method != "HEAD":
            problem = answer.json()
            assert (problem["type"], problem["scope"]) == ("/problems/scope", scope)
            assert scope in problem["detail"]


def test_who_has_no_key_is_refused_before_a_flood_of_lines_is_read(running: Server) -> None:
    head = "POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000000000\r\n\r\n"
    answer = raw(running, head.encode() + b'{"job": "noop"}\n')
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"WWW-Authenticate: Bearer" in answer.replace(b"Www", b"WWW")


def test_whether_it_lives_and_is_ready_is_told_to_everybody(running: Server) -> None:
    for path in ("/healthz", "/readyz"):
        for token in (None, "nobody-1.secret"):
            assert ask(running, "GET", path, token).status_code == 200


def test_what_is_refused_for_its_key_is_not_stored(running: Server, tokens: dict[str, str]) -> None:
    def jobs() -> int:
        return sum(ask(running, "GET", "/stats", tokens["read"]).json()["states"].values())

    before = jobs()
    for token in (None, "nobody-1.secret", tokens["read"]):
        assert ask(running, "POST", "/jobs", token, json=JOB).status_code in (401, 403)
        assert ask(running, "GET", "/", token, data='{"job_id": 7}').status_code in (401, 403)
    assert jobs() == before
    assert ask(running, "POST", "/jobs", tokens["submit"], json=JOB).status_code == 202
    assert jobs() == before + 1


def test_an_idempotency_key_is_its_clients_own_whichever_of_its_two_keys_it_shows(running: Server, file: Path) -> None:
    first, second, other = (keyfile.create(file, name, "submit") for name in ("buyer", "buyer", "seller"))

    def put(token: str, body: dict[str, Any]) -> requests.Response:
        return ask(running, "POST", "/jobs", token, json=body, headers={"Idempotency-Key": "order-17"})

    ids = [put(token, JOB).json()["id"] for token in (first, second, other)]
    assert ids[0] == ids[1] != ids[2]
    assert put(other, JOB | {"delay": 1}).status_code == 422
    assert put(first, JOB).json()["id"] == ids[0]


def everywhere(it: Server, token: str) -> set[int]:
    """The status that a key gets, on connections to all of the producers."""
    return {ask(it, "GET", "/stats", token).status_code for _ in range(12)}


def said(it: Server, words: str) -> int:
    return it.log.read_text().count(words)


def test_a_key_is_rotated_without_a_restart(running: Server, file: Path) -> None:
    old = keyfile.create(file, "rotated", "read")
    assert everywhere(running, old) == {200}
    new = keyfile.create(file, "rotated", "read")
    assert everywhere(running, new) == everywhere(running, old) == {200}
    keyfile.revoke(file, "rotated-1")
    assert everywhere(running, old) == {401}
    assert everywhere(running, new) == {200}


def test_a_damaged_file_lets_in_whom_it_let_in_before_also_to_a_new_producer(tmp_path: Path) -> None:
    file = tmp_path / "api_keys"
    revoked, kept = (keyfile.create(file, name, "read") for name in ("revoked", "kept"))
    with server(tmp_path, API_KEYS_FILE=str(file)) as it:
        keyfile.revoke(file, "revoked-1")
        wait_until(lambda: everywhere(it, revoked) == {401} and said(it, "read anew: 1") == 3, "all three know it", 10)
        file.write_text("nonsense\n")
        wait_until(lambda: everywhere(it, kept) == {200} and said(it, "the keys of before hold") == 3, "told", 10)
        old = it.producers()
        os.kill(old[0], signal.SIGKILL)
        wait_until(lambda: len(set(it.producers()) - set(old)) == 1, "a new producer")
        (new,) = set(it.producers()) - set(old)
        wait_until(lambda: f" {new} [-] serving as" in it.log.read_text(), "it serves")
        os.kill(old[1], signal.SIGSTOP)  # so that the new one is asked
        try:
            assert {ask(it, "GET", "/stats", kept).status_code for _ in range(3)} == {200}
            assert {ask(it, "GET", "/stats", revoked).status_code for _ in range(3)} == {401}
        finally:
            os.kill(old[1], signal.SIGCONT)
        assert said(it, "the keys of before hold") <= 4  # once for each process


def refused(tmp_path: Path, **settings: str) -> str:
    """What a server says that does not start."""
    it = Server(tmp_path, settings)
    it.start()
    try:
        assert it.process.wait(30) == 2
    finally:
        it.kill_everything()
    return it.log.read_text()


def test_a_server_does_not_start_with_a_file_that_is_not_good(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path, API_KEYS_FILE=str(tmp_path / "missing"))
    (tmp_path / "bad").write_text("nonsense\n")
    log = refused(tmp_path, API_KEYS_FILE=str(tmp_path / "bad"))
    assert "line 1 is not `id sha256 scopes`" in log
    assert "nonsense" not in log


def test_a_server_that_others_could_reach_does_not_start_without_keys(tmp_path: Path) -> None:
    for settings in ({"LISTEN": f"0.0.0.0:{free_port()}", "BIND": ""}, {"BIND": "0.0.0.0"}):
        log = refused(tmp_path, **settings)
        assert "where others reach the server, and it asks for no key" in log
        assert "listening" not in log
        (tmp_path / "server.log").unlink()


def raw(it: Server, request: bytes) -> bytes:
    host, port = it.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        answer = b""
        with suppress(TimeoutError):
            while data := connection.recv(65536):
                answer += data
        return answer


def test_no_key_is_ever_logged_or_told(running: Server, tokens: dict[str, str]) -> None:
    """At the level debug, with keys that are good, wrong, and spoilt in ways that Tornado quotes."""
    good, wrong = tokens["admin"], "admin-1." + "Wr0ng" * 9
    told = ""
    for token in (good, wrong, good + "x", f"{good},{wrong}"):
        for method, path, more, _ in REQUESTS:
            answer = ask(running, method, path, token, **dict(more))
            told += f"{answer.headers}{answer.text}"
    for tail in (b"\x01", b"\x7f", b"\r\nno colon", b"\r\n folded", b"\r\nHost: a b"):
        line = f"Authorization: Bearer {good}".encode()
        head = b"GET /stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        told += raw(running, head + line + tail + b"\r\n\r\n").decode("latin1")
    told += raw(running, f"GET / HTTP/1.1\r\nBearer {good}\r\n\r\n".encode()).decode("latin1")
    wait_until(lambda: running.log.read_text().count("refused: ") > 40, "the log has told of them")
    log = running.log.read_text()
    for secret in (good.partition(".")[2], wrong.partition(".")[2]):
        assert secret not in told
        assert secret not in log
    assert "authorization" not in log.lower().replace("send `authorization: bearer id.secret`", "")
    for pid in (running.process.pid, *running.producers()):
        assert good.partition(".")[2] not in "".join(psutil.Process(pid).environ().values())
