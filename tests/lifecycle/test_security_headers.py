"""Every answer is inert in a browser, and nothing that a client sent is ever shown as HTML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from service.handlers.base import FIXED_HEADERS
from service.handlers.original import LANDING
from tests.support import Server, server

MARK = "<script>alert(1)</script>"
IN_A_PATH = "/%3Cscript%3Ealert(1)%3C/script%3E"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

INERT = ("application/json", "application/problem+json", "application/x-ndjson", "text/plain")

REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a job": ("POST", "/jobs", {"json": {"job": "noop", "args": {"job_id": MARK}}}),
    "lines": ("POST", "/jobs", {"data": MARK + "\n", "headers": {"Content-Type": "application/x-ndjson"}}),
    "the metrics": ("GET", "/metrics?" + MARK, {}),
    "an unknown job": ("POST", "/jobs", {"json": {"job": MARK}}),
    "an unknown argument": ("POST", "/jobs", {"json": {"job": "noop", "args": {MARK: 1}}}),
    "an unknown field": ("POST", "/jobs", {"json": {"job": "noop", MARK: 1}}),
    "not JSON": ("POST", "/jobs", {"data": MARK}),
    "another content type": ("POST", "/jobs", {"data": MARK, "headers": {"Content-Type": "text/html"}}),
    "a bad idempotency key": ("POST", "/jobs", {"json": {"job": "noop"}, "headers": {"Idempotency-Key": MARK}}),
    "a request id": ("GET", "/stats", {"headers": {"X-Request-ID": MARK}}),
    "a host": ("GET", "/stats", {"headers": {"Host": "script.example"}}),
    "too large": ("POST", "/jobs", {"data": MARK * 50_000}),
    "the original form": ("GET", "/", {"json": {"job_id": MARK}}),
    "the original form, wrong": ("POST", "/", {"json": {"job_id": [MARK]}}),
    "a path": ("GET", IN_A_PATH, {}),
    "a path below jobs": ("GET", "/jobs" + IN_A_PATH, {}),
    "a query": ("GET", "/stats?x=" + MARK, {}),
    "a method": ("BREW", IN_A_PATH, {}),
    "from another origin": ("POST", "/jobs", {"data": MARK, "headers": {"Origin": f"http://{MARK}/"}}),
    "from another site": ("POST", "/jobs", {"data": MARK, "headers": {"Sec-Fetch-Site": "cross-site"}}),
    "a list": ("GET", "/jobs?job=" + MARK, {}),
    "a list, wrong": ("GET", "/jobs?state=" + MARK, {}),
    "a list by what is not there": ("GET", f"/jobs?{MARK}=1", {}),
    "a retry": ("POST", "/jobs/retry", {"json": {"state": MARK}}),
    "a preference": ("POST", "/jobs", {"json": {"job": "noop"}, "headers": {"Prefer": MARK}}),
    "wrong method": ("PUT", "/jobs", {"data": MARK}),
    "alive": ("GET", "/healthz?" + MARK, {}),
    "ready": ("GET", "/readyz?" + MARK, {}),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("headers"), SLOTS="4", PRODUCERS="1") as it:
        yield it


def ask(it: Server, method: str, path: str, more: dict[str, Any]) -> requests.Response:
    headers = BROWSER | more.get("headers", {})
    return requests.request(method, it.url + path, timeout=10, **(more | {"headers": headers}))


@pytest.mark.parametrize("case", REQUESTS)
def test_what_a_client_sent_is_never_html_and_every_answer_is_inert(running: Server, case: str) -> None:
    method, path, more = REQUESTS[case]
    answer = ask(running, method, path, more)
    assert answer.headers["Content-Type"].split(";")[0] in INERT
    assert {name: answer.headers.get(name) for name in FIXED_HEADERS} == FIXED_HEADERS


def test_a_jobs_result_and_error_are_no_html_either(running: Server) -> None:
    for job, args in (("noop", {"job_id": MARK}), ("sleep", {"seconds": -1, "job_id": MARK})):
        location = running.submit(job, **args)
        running.wait_for(location, "succeeded", "failed", timeout=30)
        answer = ask(running, "GET", location, {})
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Content-Security-Policy"] == FIXED_HEADERS["Content-Security-Policy"]


def test_a_jobs_events_and_what_has_not_changed_are_inert(running: Server) -> None:
    location = running.submit("noop", job_id=MARK)
    running.wait_for(location, "succeeded")
    events = ask(running, "GET", f"{location}/events", {})
    assert events.headers["Content-Type"] == "text/event-stream"
    etag = ask(running, "GET", location, {}).headers["ETag"]
    same = ask(running, "GET", location, {"headers": {"If-None-Match": etag}})
    over = ask(running, "GET", f"{location}/events", {"headers": {"Last-Event-ID": etag.strip('"')}})
    assert (same.status_code, over.status_code) == (304, 204)
    for answer in (events, same, over):
        assert {name: answer.headers.get(name) for name in FIXED_HEADERS} == FIXED_HEADERS


def test_the_page_is_the_same_for_everybody_and_has_a_policy_of_its_own(running: Server) -> None:
    page = ask(running, "GET", "/?" + MARK, {"headers": {"X-Request-ID": MARK, "Referer": MARK, "Cookie": MARK}})
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.text == LANDING
    fixed = FIXED_HEADERS | {"Content-Security-Policy": page.headers["Content-Security-Policy"]}
    assert {name: page.headers.get(name) for name in FIXED_HEADERS} == fixed
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_an_error_of_our_own_has_the_headers_too(running: Server) -> None:
    """What Tornado forgets when it answers an error anew."""
    answer = ask(running, "GET", "/jobs/01890000-0000-7000-8000-000000000000", {})
    assert answer.status_code == 404
    assert {name: answer.headers.get(name) for name in FIXED_HEADERS} == FIXED_HEADERS
