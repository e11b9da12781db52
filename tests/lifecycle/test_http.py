"""The HTTP contract's first part, against a real server."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import Server, server, wait_until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("http"), SLOTS="4") as it:
        yield it


def problem(response: requests.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"].startswith("/problems/")
    assert body["title"]
    assert body["instance"] == response.headers["X-Request-ID"]
    return body


def test_an_accepted_job_runs_and_its_result_is_there(running: Server) -> None:
    response = requests.post(f"{running.url}/jobs", json={"job": "primes", "args": {"limit": 100}})
    assert response.status_code == 202
    receipt = response.json()
    assert receipt == {
        "id": receipt["id"],
        "job": "primes",
        "state": "queued",
        "durability": "fsync",
        "position": 1,
        "estimated_start": receipt["estimated_start"],
    }
    assert response.headers["Location"] == f"/jobs/{receipt['id']}"
    job = running.wait_for(response.headers["Location"], "succeeded")
    assert (job["result"], job["args"], job["attempt"], job["error"]) == (25, {"limit": 100}, 1, None)
    assert [entry["outcome"] for entry in job["history"]] == ["succeeded"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_original_form_is_kept_word_for_word(running: Server, method: str) -> None:
    response = requests.request(method, f"{running.url}/", data='{"job_id": 7}')
    assert (response.status_code, response.text.strip()) == (200, "7 add")
    assert running.wait_for(response.headers["Location"], "succeeded")["result"] == 7
    for line in ("job add:7", "scheduling 7", "Collected job: 7"):
        wait_until(lambda line=line: line in running.log.read_text(), line)


def test_the_same_job_id_twice_is_two_jobs(running: Server) -> None:
    first, second = (requests.get(f"{running.url}/", data='{"job_id": 8}').headers["Location"] for _ in range(2))
    assert first != second


def test_a_job_id_cannot_break_the_log(running: Server) -> None:
    requests.post(f"{running.url}/", json={"job_id": "x\n2026 ERROR forged \x1b[31m"})
    lines = running.log.read_text().splitlines()
    assert not [line for line in lines if line.startswith("2026 ERROR forged")]
    assert "\x1b" not in running.log.read_text()


def test_a_flaky_job_is_retried_and_its_history_tells(running: Server) -> None:
    job = running.wait_for(running.submit("flaky", failures=2), "succeeded", "failed")
    assert (job["state"], job["attempt"]) == ("succeeded", 3)
    assert [entry["outcome"] for entry in job["history"]] == ["raised", "raised", "succeeded"]
    assert "attempt 1 fails as asked" in job["history"][0]["reason"]


REFUSALS: dict[str, tuple[Any, int]] = {
    "not JSON": ("{", 400),
    "nothing": ("", 400),
    "not UTF-8": (b'{"job": "\xff"}', 400),
    "a number that JSON does not have": ('{"job": "primes", "args": {"limit": NaN}}', 400),
    "a name twice": ('{"job": "noop", "job": "sleep"}', 400),
    "a lone surrogate": ('{"job": "noop", "args": {"job_id": "\\ud800"}}', 400),
    "nested too deeply": ('{"job": "noop", "args": {"job_id": ' + "[" * 100_000 + "]" * 100_000 + "}}", 400),
    "not an object": ("[]", 422),
    "no job": ('{"args": {}}', 422),
    "an unknown field": ('{"job": "noop", "prio": 3}', 422),
    "an unknown field with a long name": (f'{{"job": "noop", "{"x" * 1_000_000}": 3}}', 422),
    "an unknown job": ('{"job": "format_disk"}', 404),
    "a name that is none": ('{"job": "__import__(\'os\')"}', 404),
    "an unknown argument": ('{"job": "sleep", "args": {"secs": 1}}', 422),
    "an argument of the wrong type": ('{"job": "sleep", "args": {"seconds": "1"}}', 422),
    "a missing argument": ('{"job": "primes"}', 422),
    "too large": ('{"job": "noop", "args": {"job_id": "' + "x" * (1 << 20) + '"}}', 413),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_bad_submission_is_refused_and_stores_nothing(running: Server, case: str) -> None:
    body, status = REFUSALS[case]
    before = sum(running.stats()["states"].values())
    response = requests.post(f"{running.url}/jobs", data=body)
    problem(response, status)
    assert len(response.content) < 2000, "what was sent comes back"
    assert sum(running.stats()["states"].values()) == before


@pytest.mark.parametrize("body", ["{", "[]", "{}", '{"job_id": 1.5}', '{"job_id": [1]}', '{"job_id": 1, "x": 2}'])
def test_a_bad_original_form_is_refused(running: Server, body: str) -> None:
    response = requests.get(f"{running.url}/", data=body)
    problem(response, response.status_code)
    assert response.status_code in (400, 422)


def test_an_unknown_job_is_told_the_known_ones(running: Server) -> None:
    body = problem(requests.post(f"{running.url}/jobs", json={"job": "nope"}), 404)
    assert body["known"] == ["flaky", "noop", "primes", "sleep"]


def test_another_content_type_is_refused(running: Server) -> None:
    for kind in ("text/xml", "multipart/form-data; boundary=x"):
        response = requests.post(f"{running.url}/jobs", data="<job/>", headers={"Content-Type": kind})
        problem(response, 415)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/jobs", 405),
        ("DELETE", "/jobs", 405),
        ("GET", "/jobs/retry", 405),
        ("DELETE", "/", 405),
        ("POST", "/stats", 405),
        ("GET", "/nothing", 404),
        ("POST", "/jobs/", 404),
        ("GET", "/jobs/7", 404),
        ("GET", "/jobs/01890000-0000-7000-8000-000000000000", 404),
        ("BREW", "/jobs", 405),
        ("BREW", "/nothing", 405),
    ],
)
def test_wrong_methods_and_paths_are_problems(running: Server, method: str, path: str, status: int) -> None:
    response = requests.request(method, running.url + path)
    problem(response, status)
    assert ("Allow" in response.headers) == (status == 405)


def test_a_person_gets_a_page_that_needs_nothing_from_elsewhere(running: Server) -> None:
    response = requests.get(f"{running.url}/", headers={"Accept": "text/html,*/*"})
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert not re.search(r"(src|href)=\"(?!/)", response.text)


def test_the_server_tells_that_it_lives_and_is_ready(running: Server) -> None:
    assert requests.get(f"{running.url}/healthz").json() == {"status": "alive"}
    assert requests.get(f"{running.url}/readyz").json() == {"status": "ready"}
    assert requests.head(f"{running.url}/healthz").status_code == 200


def test_stats_shows_what_every_producer_runs(running: Server) -> None:
    location = running.submit("sleep", seconds=60)
    running.wait_for(location, "running")
    wait_until(lambda: len(running.stats()["producers"]) == 2, "both serve")
    stats = running.stats()
    requests.delete(running.url + location)
    ran = [job for producer in stats["producers"] for job in producer["running"]]
    assert location.rpartition("/")[2] in [job["id"] for job in ran]
    assert len(stats["producers"]) == 2
    assert stats["states"]["running"] >= 1


def test_another_sites_page_cannot_send_jobs(running: Server) -> None:
    response = requests.post(f"{running.url}/jobs", json={"job": "noop"}, headers={"Sec-Fetch-Site": "cross-site"})
    problem(response, 403)


@pytest.mark.parametrize("origin", ["http://page.example", "null", "http://127.0.0.1.page.example", "https://[", ""])
def test_nor_can_it_from_a_browser_that_only_names_its_origin(running: Server, origin: str) -> None:
    response = requests.post(f"{running.url}/jobs", json={"job": "noop"}, headers={"Origin": origin})
    problem(response, 403)


def test_our_own_page_can(running: Server) -> None:
    for headers in ({"Origin": running.url}, {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}):
        assert requests.post(f"{running.url}/jobs", json={"job": "noop"}, headers=headers).status_code == 202


@pytest.mark.parametrize(
    "host", ["page.example", "page.example:8080", "127.0.0.1.page.example", "page.example.", "1.2"]
)
def test_a_page_whose_name_leads_here_can_neither_send_nor_read(running: Server, host: str) -> None:
    for method, path in (("GET", "/stats"), ("GET", "/jobs"), ("POST", "/jobs"), ("DELETE", "/jobs/x"), ("POST", "/")):
        problem(requests.request(method, running.url + path, data='{"job": "noop"}', headers={"Host": host}), 403)


@pytest.mark.parametrize(
    "host", ["localhost", "nginx:8080", "[::1]:8080", "10.1.2.3", "host.docker.internal:8080", "me.local", "LOCALHOST."]
)
def test_names_that_no_page_can_have_are_answered(running: Server, host: str) -> None:
    assert requests.get(f"{running.url}/stats", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])  # nginx makes a POST of both
def test_another_sites_page_may_link_here(running: Server, method: str) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Accept": "text/html"}
    assert "<title>Stormdrain" in requests.request(method, running.url, headers=headers).text
    problem(requests.request(method, running.url, headers=headers, data='{"job_id": 7}'), 403)


def test_what_is_no_http_is_a_problem_too(running: Server) -> None:
    port = int(running.url.rpartition(":")[2])
    for request in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x1bb\r\nContent-Length: 99999\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request + b"x" * 99_999)
            connection.shutdown(socket.SHUT_WR)
            head, body = b"".join(iter(lambda it=connection: it.recv(65536), b"")).split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"Content-Type: application/problem+json" in head
        assert json.loads(body)["type"] == "/problems/malformed"


def test_a_small_body_limit_leaves_room_for_headers(tmp_path: Path) -> None:
    with server(tmp_path, BODY_MAX="1024", PRODUCERS="1") as it:
        problem(requests.post(f"{it.url}/jobs", data="x" * 3000), 413)
        assert requests.get(f"{it.url}/healthz", headers={"Cookie": "c=" + "x" * 8000}).status_code == 200


def test_a_request_id_that_is_plain_is_kept_and_another_is_replaced(running: Server) -> None:
    assert requests.get(f"{running.url}/healthz", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    assert requests.get(f"{running.url}/healthz", headers={"X-Request-ID": "a b"}).headers["X-Request-ID"] != "a b"


def test_what_is_stored_is_what_was_sent(running: Server) -> None:
    args = {"job_id": {"text": '雨 " \\ \u2028 </script>', "numbers": [1, -2.5, 1e300, 2**62], "none": None}}
    job = running.wait_for(running.submit("noop", **args), "succeeded")
    assert job["args"] == args
    assert job["result"] == json.loads(json.dumps(args["job_id"]))
