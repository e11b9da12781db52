"""A receiver is told of every end: signed, until it has it, and nobody else is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from standardwebhooks import Webhook

from tests.support import Server, server, wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver(ThreadingHTTPServer):
    """Answers with the next of `answers`, then 204; keeps what came."""

    def __init__(self, *answers: tuple[int, dict[str, str]]) -> None:
        super().__init__(("127.0.0.1", 0), Told)
        self.answers, self.told = list(answers), []
        self.hold = threading.Event()
        self.hold.set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook"

    told: list[tuple[str, dict[str, Any]]]  # webhook-id, and what was verified


class Told(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.told.append((self.headers["webhook-id"], Webhook(SECRET).verify(body, dict(self.headers))))
        self.server.hold.wait(20)
        status, headers = self.server.answers.pop(0) if self.server.answers else (204, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *arguments: Any) -> None:
        """Not into the test's output."""


@contextmanager
def receiver(*answers: tuple[int, dict[str, str]]) -> Iterator[Receiver]:
    with Receiver(*answers) as it:
        thread = threading.Thread(target=it.serve_forever)
        thread.start()
        try:
            yield it
        finally:
            it.hold.set()
            it.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"CALLBACK_SECRET": SECRET, "CALLBACK_HOSTS": "127.0.0.1", "SLOTS": "4"}
    with server(tmp_path_factory.mktemp("callbacks"), **settings) as it:
        yield it


def send(running: Server, url: str, **asked: Any) -> str:
    response = requests.post(f"{running.url}/jobs", json={"job": "noop", "callback": url, **asked})
    assert response.status_code == 202, response.text
    return response.headers["Location"]


def told(running: Server, location: str, state: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        callback: dict[str, Any] = running.job(location)["callback"]
        return callback if callback["state"] == state else None

    return wait_until(there, f"the callback is {state}")


def test_each_end_is_told_once_with_what_came_of_it(running: Server) -> None:
    with receiver() as it:
        ends = {
            "succeeded": send(running, it.url, args={"job_id": 9}),
            "failed": send(running, it.url, job="flaky", args={"failures": 1}, attempts=1),
            "expired": send(running, it.url, deadline="0001-01-01T00:00:00Z"),
            "cancelled": send(running, it.url, delay=60),
        }
        assert running.job(ends["cancelled"])["callback"]["state"] == "waiting"
        requests.delete(running.url + ends["cancelled"])
        for location in ends.values():
            told(running, location, "delivered")
        found = {body["data"]["id"]: body for _, body in it.told}
        assert len(it.told) == len(found) == 4
        for state, location in ends.items():
            body = found[location.rpartition("/")[2]]
            assert (body["type"], body["data"]["state"]) == (f"job.{state}", state)
        assert found[ends["succeeded"].rpartition("/")[2]]["data"]["result"] == 9
        assert found[ends["failed"].rpartition("/")[2]]["data"]["error"]["type"] == "RuntimeError"


def test_it_is_told_again_until_somebody_has_it_and_knows_the_repetition(running: Server) -> None:
    with receiver((500, {})) as it:
        location = send(running, it.url)
        wait_until(lambda: running.job(location)["callback"]["error"], "the first try has failed")
        assert running.job(location)["callback"]["error"] == "HTTP 500"
        assert told(running, location, "delivered")["tries"] == 2
        (first, _), (second, _) = it.told
        assert first == second


def test_a_redirect_is_not_followed_and_gone_ends_it(running: Server) -> None:
    with receiver() as elsewhere, receiver((302, {"Location": elsewhere.url}), (410, {})) as it:
        location = send(running, it.url)
        callback = told(running, location, "failed")
        assert (callback["tries"], callback["error"]) == (2, "HTTP 410")
        assert elsewhere.told == []


def test_another_end_is_told_anew(running: Server) -> None:
    with receiver() as it:
        location = send(running, it.url, delay=60)
        requests.delete(running.url + location)
        told(running, location, "delivered")
        assert requests.post(f"{running.url}{location}/retry").status_code == 202
        wait_until(lambda: len(it.told) == 2, "the second end")
        assert [body["type"] for _, body in it.told] == ["job.cancelled", "job.succeeded"]
        assert it.told[0][0] != it.told[1][0]


def test_a_producer_that_dies_while_it_tells_is_replaced_by_another(running: Server) -> None:
    with receiver() as it:
        it.hold.clear()
        location = send(running, it.url)
        wait_until(lambda: it.told, "it is being told")
        for pid in running.producers():
            psutil.Process(pid).kill()
        it.hold.set()
        assert told(running, location, "delivered")["tries"] == 2
        assert len({id for id, _ in it.told}) == 1


@pytest.mark.parametrize("url", ["http://localhost:{port}/", "http://[::1]:{port}/", "http://0.0.0.0:{port}/"])
def test_an_address_inside_is_never_reached(running: Server, url: str) -> None:
    with receiver() as it:
        location = send(running, url.format(port=it.server_address[1]))
        error = wait_until(lambda: running.job(location)["callback"]["error"], "the first try has failed")
        assert error.startswith("Forbidden")
        assert it.told == []


def test_callbacks_are_off_until_the_operator_allows_them(tmp_path: Path) -> None:
    with server(tmp_path) as it:
        response = requests.post(f"{it.url}/jobs", json={"job": "noop", "callback": "https://a.example/"})
        assert (response.status_code, "CALLBACK_SECRET" in response.json()["detail"]) == (422, True)
        assert sum(it.stats()["states"].values()) == 0
