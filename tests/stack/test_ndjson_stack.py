"""Lines through nginx, on the bare machine: bodies and answers that no socket holds, and what breaks on the way."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest
import requests

from service.handlers.streams import LAST_ANSWER
from tests.native import Stack, Stub, nginx_before
from tests.streaming import NDJSON, TRIES, ids, lines_of, noops, statuses, stream
from tests.support import all_gone, wait_until

pytestmark = pytest.mark.stack

WAITING = {"job": "noop", "args": {"job_id": "x" * 1000}, "delay": 3600}
PIECE = lines_of(*[WAITING] * 1000) + b"x\n" * 1000
PIECES = 25  # 26 MB of body and 5 MB of answer
CURL = ["curl", "-sS", "--max-time", "90", "-X", "POST", "-H", "Content-Type: application/x-ndjson", "-T"]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = Path(f"/tmp/stormdrain-ndjson-{os.getpid()}")  # short, since sockets are in it
    folder.mkdir()
    it = Stack(folder)
    up = it.make("up", "PRODUCERS=1", "SLOTS=2", "DRAIN=8")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield it
    finally:
        it.make("down")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def large(stack: Stack) -> Path:
    file = stack.folder / "large.ndjson"
    file.write_bytes(PIECE * PIECES)
    return file


def by_curl(url: str, file: Path) -> bytes:
    return subprocess.run([*CURL, file, url], capture_output=True, check=True).stdout


def by_requests_from_a_file(url: str, file: Path) -> bytes:
    with file.open("rb") as body:
        return requests.post(url, data=body, headers=NDJSON, timeout=90).content


def by_requests_from_a_generator(url: str, file: Path) -> bytes:
    return requests.post(url, data=iter([PIECE] * PIECES), headers=NDJSON, timeout=90).content


@pytest.mark.parametrize("send", [by_curl, by_requests_from_a_file, by_requests_from_a_generator])
def test_any_client_gets_a_receipt_for_every_line(
    stack: Stack, large: Path, send: Callable[[str, Path], bytes]
) -> None:
    told = [json.loads(line) for line in send(f"{stack.url}/jobs", large).splitlines()]
    assert statuses(told) == ([0] * 1000 + [400] * 1000) * PIECES
    assert len(set(ids(told))) == 1000 * PIECES
    assert {stack.job(f"/jobs/{id}")["state"] for id in ids(told)[::5000]} == {"queued"}


def test_a_million_bytes_on_one_line_pass_and_more_do_not(stack: Stack) -> None:
    lines = [lines_of({**WAITING, "args": {"job_id": "x" * size}}) for size in (1_000_000, 1 << 20, 10)]
    told = requests.post(f"{stack.url}/jobs", data=b"".join(lines), headers=NDJSON, timeout=20).text.splitlines()
    assert statuses(map(json.loads, told)) == [0, 413, 0]


def test_an_ordinary_request_is_as_limited_as_before(stack: Stack) -> None:
    for kind in ("application/json", "application/x-ndjson-not", "text/x-ndjson"):
        response = requests.post(f"{stack.url}/jobs", data=b"x" * (2 << 20), headers={"Content-Type": kind}, timeout=20)
        assert response.status_code == 413
    assert requests.post(f"{stack.url}/.ndjson", data=noops(1), headers=NDJSON, timeout=5).status_code == 404
    assert requests.post(f"{stack.url}/stats", data=noops(1), headers=NDJSON, timeout=5).status_code == 405


def test_a_request_that_is_refused_as_a_whole_says_why_however_long_it_is(stack: Stack, large: Path) -> None:
    done = subprocess.run(
        [*CURL, large, "-H", "Idempotency-Key: order-17", f"{stack.url}/jobs"], capture_output=True, check=True
    )
    assert json.loads(done.stdout)["status"] == 400


def test_a_sender_that_falls_silent_is_cut_off_and_a_slow_one_is_not(stack: Stack) -> None:
    with stream(stack) as silent, stream(stack) as slow:
        started = time.monotonic()
        silent.send(noops(1))
        while not silent.answered():
            slow.send(noops(1))
            time.sleep(0.5)
            assert time.monotonic() - started < 40  # nginx's own default is 60
        assert time.monotonic() - started > 9
        assert silent.answer().status in (0, 408)
        slow.end()
        assert set(statuses(slow.answer().receipts())) == {0}


def test_a_client_that_takes_no_answer_is_cut_off_and_others_are_served(stack: Stack) -> None:
    with stream(stack, buffer=4096) as deaf:
        deaf.send(b"x\n" * 100_000)
        deaf.end()
        wait_until(lambda: deaf.id in (stack.folder / "log/nginx.log").read_text(), "it is over", 40)
        answer = deaf.answer()
        assert len(list(answer.receipts())) < 100_000
        assert not answer.whole
    assert stack.submit("noop")


def test_while_nginx_reloads_these_answers_end_their_connections_too(stack: Stack) -> None:
    closing = stack.folder / "nginx/closing"
    for expected in ("keep-alive", "close"):
        response = requests.post(f"{stack.url}/jobs", data=noops(2), headers=NDJSON, timeout=5)
        assert statuses(map(json.loads, response.text.splitlines())) == [0, 0]
        assert response.headers["Connection"] == expected
        closing.touch()
    closing.unlink()


@contextmanager
def restarted(stack: Stack) -> Iterator[None]:
    """Afterwards both servers are others, and serve."""
    old = stack.servers()
    yield
    wait_until(lambda: all_gone(old), "the old ones have ended", 30)
    wait_until(lambda: last_said(stack) == ["serving as"] * 2, "the new ones serve", 60)


def stop_servers(stack: Stack) -> None:
    """Returns when they drain."""
    before = [log.count("draining") for log in logs(stack)]
    for server in stack.servers():
        server.terminate()
    # Not at the same moment: one that has nothing to finish may have ended by then, and serve again.
    wait_until(lambda: all(log.count("draining") > n for log, n in zip(logs(stack), before, strict=True)), "they drain")


def last_said(stack: Stack) -> list[str]:
    """By each server."""
    return [max("serving as", "draining", key=log.rfind) for log in logs(stack)]


def logs(stack: Stack) -> list[str]:
    return [(stack.folder / f"log/server_{n}.log").read_text() for n in range(2)]


def test_a_stop_refuses_the_lines_that_come_after_it_and_answers_all(stack: Stack) -> None:
    with restarted(stack), stream(stack) as sender:
        sender.send(named("s", range(100)))
        wait_until(lambda: len(stored(stack, "s")) == 100, "they are stored")
        stop_servers(stack)
        sender.send(noops(100))
        sender.end()
        answer = sender.answer()
        told = statuses(answer.receipts())
    assert answer.whole
    assert told == [0] * 100 + [503] * 100


def test_a_body_that_goes_on_beyond_the_drain_time_is_answered_as_far_as_it_came(stack: Stack) -> None:
    assert any(body_beyond_the_drain_time(stack) for _ in range(TRIES)), "the sender stood still each time"


def body_beyond_the_drain_time(stack: Stack) -> bool:
    """Whether lines came while the last one was waited for."""
    with restarted(stack), stream(stack) as sender:
        sender.send(noops(1))
        stop_servers(stack)
        if sender.send_until_answered()[1] >= LAST_ANSWER:
            return False
        answer = sender.answer()
        told = list(answer.receipts())
    assert answer.whole
    assert "this line and those after it" in told[-1]["problem"]["detail"]
    return True


def test_lines_of_a_killed_producer_are_unknown_and_sent_to_no_other(stack: Stack) -> None:
    with stream(stack) as sender:
        for n in range(3):
            sender.send(named("k", range(n * 1000, n * 1000 + 1000)))
        wait_until(lambda: len(stored(stack, "k")) > 500, "some are stored")
        for server in stack.servers():
            os.kill(server.children()[-1].pid, signal.SIGKILL)
        answer = sender.answer()
        assert answer.status == 502
        assert answer.response.read()
    time.sleep(1)  # for a second sending to show
    found = stored(stack, "k")
    assert 500 < len(found) <= 3000
    assert set(found.values()) == {1}


def named(prefix: str, numbers: range) -> bytes:
    return lines_of(*({**WAITING, "args": {"job_id": f"{prefix}{number}"}} for number in numbers))


def stored(stack: Stack, prefix: str) -> Counter[str]:
    """How often each job_id with this prefix is in the store."""
    file = stack.folder / "data/backlog.db"
    db = apsw.Connection(f"file:{file}?mode=ro", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        rows = db.execute("SELECT json_extract(args, '$.job_id') FROM jobs").fetchall()
        return Counter(job_id for (job_id,) in rows if str(job_id).startswith(prefix))
    finally:
        db.close()


def test_every_receipt_that_was_read_of_a_killed_producer_is_a_job_on_disk(stack: Stack) -> None:
    with stream(stack, buffer=4096) as sender:
        for _ in range(PIECES):
            sender.send(PIECE)
        sender.send(b"x\n" * 50_000)
        sender.end()
        answer = sender.answer()
        told = list(answer.receipts(200_000))
        for server in stack.servers():
            os.kill(server.children()[-1].pid, signal.SIGKILL)
        told += answer.receipts()
    assert not answer.whole
    assert 500 < len(ids(told)) <= 1000 * PIECES
    wait_until(lambda: all(server.children() for server in stack.servers()), "they are replaced")
    assert all(stack.job(f"/jobs/{id}") for id in ids(told)[::50])


@pytest.fixture
def prefix(stack: Stack) -> Path:
    it = stack.folder / f"other-{time.monotonic_ns()}"
    it.mkdir()
    return it


def send(port: int) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", "/jobs", body=iter([noops(10)] * 3), headers=NDJSON, encode_chunked=True)
        response = connection.getresponse()
        return response.status, response.read()


def test_what_was_sent_in_part_is_never_sent_to_a_second_producer(stack: Stack, prefix: Path) -> None:
    paths = [prefix / f"{n}.sock" for n in range(3)]
    stubs = [Stub(path) for path in paths]
    with nginx_before(stack, *paths) as port:
        status, body = send(port)
    assert status == 502
    assert json.loads(body)["type"] == "/problems/no-producer"
    assert sum(len(stub.hits) for stub in stubs) == 1


def test_what_could_not_be_sent_goes_to_a_producer_that_is_there(stack: Stack, prefix: Path) -> None:
    with nginx_before(stack, prefix / "0.sock", prefix / "1.sock", stack.folder / "run/server_0.sock") as port:
        for _ in range(6):
            status, body = send(port)
            assert status == 200
            assert len(ids(map(json.loads, body.splitlines()))) == 30


def test_without_any_producer_nginx_answers_with_a_problem(stack: Stack, prefix: Path) -> None:
    with nginx_before(stack, prefix / "0.sock") as port:
        status, body = send(port)
    assert (status, json.loads(body)["type"]) == (502, "/problems/no-producer")
