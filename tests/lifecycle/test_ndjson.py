"""One job a line, a receipt for each: straight to a server."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import psutil
import pytest
import requests

from service.handlers.ndjson import SILENCE
from service.handlers.streams import LAST_ANSWER
from tests.faults.faulty import TURN_LOCK, file_of, script, stored
from tests.streaming import NDJSON, SLEEP, TRIES, ids, lines_of, noops, statuses, stream
from tests.support import Client, Server, answers, server, wait_until

MB = 1 << 20
GROWTH = 8 * MB  # bytes that a producer may grow by, whatever is sent to it


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("ndjson"), SLOTS="4", PRODUCERS="1") as it:
        yield it


def post(client: Client, body: bytes, **headers: str) -> requests.Response:
    return requests.post(f"{client.url}/jobs", data=body, headers=NDJSON | headers, timeout=60)


def receipts(client: Client, body: bytes) -> list[dict[str, Any]]:
    response = post(client, body)
    assert (response.status_code, response.headers["Content-Type"]) == (200, NDJSON["Content-Type"])
    return [requests.models.complexjson.loads(line) for line in response.text.splitlines()]


def memory(it: Server) -> int:
    (producer,) = it.producers()
    return psutil.Process(producer).memory_info().rss


def ids_in(file: Path) -> set[str]:
    db = apsw.Connection(f"file:{file}?mode=ro", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        return {id for (id,) in db.execute("SELECT id FROM jobs")}
    finally:
        db.close()


def test_every_line_is_a_job_and_the_receipts_are_in_order(running: Server) -> None:
    answer = receipts(running, noops(1000))
    assert len(set(ids(answer))) == 1000
    for n in (0, 1, 255, 256, 257, 999):
        job = running.wait_for(f"/jobs/{answer[n]['id']}", "succeeded")
        assert job["args"] == {"job_id": n}


def test_a_line_may_say_all_that_a_single_job_may(running: Server) -> None:
    later = {"job": "noop", "args": {}, "delay": 3600, "priority": 7, "attempts": 2, "timeout": 5}
    (receipt,) = receipts(running, lines_of(later))
    job = running.job(f"/jobs/{receipt['id']}")
    assert [job[name] for name in ("state", "priority", "attempts", "timeout")] == ["queued", 7, 2, 5.0]


def test_the_same_line_twice_is_two_jobs(running: Server) -> None:
    assert len(set(ids(receipts(running, noops(1) * 2)))) == 2


BAD: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"\xff\xfe\x00garbage", 400),
    (b'{"job":"noop"} {"job":"noop"}', 400),
    (b'{"job":"noop","job":"sleep"}', 400),
    (b'{"job":"noop","args":{"job_id":NaN}}', 400),
    (b'{"job":"noop","args":{"job_id":' + b"[" * 50_000 + b"]" * 50_000 + b"}}", 400),
    (b"[]", 422),
    (b'{"job":"format_disk"}', 404),
    (b'{"job":"primes"}', 422),
    (b'{"job":"noop","key":"order-17"}', 422),
    (b'{"job":"noop","args":{"job_id":"' + b"x" * MB + b'"}}', 413),
]


def test_a_bad_line_does_not_spoil_the_others(running: Server) -> None:
    body = noops(1) + b"".join(line + b"\n" + noops(1) for line, _ in BAD)
    answer = receipts(running, body)
    assert statuses(answer) == [0, *(status for _, expected in BAD for status in (expected, 0))]
    for number, receipt in enumerate(answer, 1):
        if "problem" in receipt:
            problem = receipt["problem"]
            assert set(problem) == {"type", "title", "status", "detail", "line"}
            assert problem["type"].startswith("/problems/")
            assert problem["line"] == number


def test_empty_lines_count_and_get_no_receipt(running: Server) -> None:
    answer = receipts(running, b"\n" + noops(1) + b"\r\n  \t\n" + noops(1).replace(b"\n", b"\r\n") + b"\n{")
    assert statuses(answer) == [0, 0, 400]
    assert answer[-1]["problem"]["line"] == 7
    assert receipts(running, b"") == receipts(running, b"\n\n") == []


def test_a_last_line_without_a_newline_is_a_line(running: Server) -> None:
    assert statuses(receipts(running, noops(2).rstrip())) == [0, 0]


def test_binary_garbage_is_answered_line_by_line(running: Server) -> None:
    garbage = random.Random(7).randbytes(300_000)
    answer = receipts(running, garbage + b"\n" + noops(1))
    lines = [line for line in garbage.split(b"\n") if line.strip(b" \t\r")]
    assert statuses(answer) == [400] * len(lines) + [0]


def test_twenty_thousand_lines_leave_the_memory_as_it_was(running: Server) -> None:
    receipts(running, noops(3000))
    before = memory(running)
    later = b'{"job":"noop","delay":3600}\n'
    answer = receipts(running, later * 20_000)
    assert len(set(ids(answer))) == 20_000
    assert memory(running) - before < GROWTH


def test_a_line_without_an_end_costs_no_memory(running: Server) -> None:
    before, largest = memory(running), 0
    with stream(running) as it:
        it.send(noops(1))
        for _ in range(400):
            it.send(b"x" * 100_000)
            largest = max(largest, memory(running))
        it.send(b"\n" + noops(1))
        it.end()
        assert statuses(it.answer().receipts()) == [0, 413, 0]
    assert largest - before < GROWTH


def test_what_is_no_such_request_is_refused_as_a_whole(running: Server) -> None:
    before = sum(running.stats()["states"].values())
    for headers, body, status in (
        ({"Idempotency-Key": "order-17"}, noops(1), 400),
        ({"Content-Encoding": "gzip"}, gzip.compress(noops(1)), 415),
        ({"Sec-Fetch-Site": "cross-site"}, noops(1), 403),
    ):
        response = post(running, body, **headers)
        assert response.status_code == status
        assert response.headers["Content-Type"] == "application/problem+json"
    assert sum(running.stats()["states"].values()) == before
    assert requests.put(f"{running.url}/jobs", data=noops(1), headers=NDJSON, timeout=5).status_code == 405


def test_what_finds_no_room_is_refused_line_by_line(tmp_path: Path) -> None:
    with server(tmp_path, BACKLOG_MAX="300", SLOTS="1", PRODUCERS="1") as it:
        it.wait_for(it.submit("sleep", seconds=3600), "running")
        answer = receipts(it, lines_of(*[SLEEP] * 500))
        assert statuses(answer) == [0] * 300 + [503] * 200
        assert {receipt["problem"]["type"] for receipt in answer[300:]} == {"/problems/backlog-full"}
        assert all(1 <= receipt["problem"]["retry_after"] <= 60 for receipt in answer[300:])
        assert it.stats()["states"]["queued"] == 300


def test_while_the_store_is_locked_lines_are_refused_and_then_taken_again(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", COMMIT_TIMEOUT="1") as it, stream(it) as sender:
        it.wait_for(it.submit("noop"), "succeeded")
        with script(TURN_LOCK, str(file_of(tmp_path))):
            started = time.monotonic()
            sender.send(noops(2000))
            sender.send(noops(1))
            time.sleep(8)  # enough for one wait for all that was read at once, and too little for one for each window
        sender.send(noops(1))
        sender.end()
        answer = list(sender.answer().receipts())
        assert time.monotonic() - started < 16
        assert statuses(answer) == [503] * 2001 + [0]
        assert {receipt["problem"]["type"] for receipt in answer[:-1]} == {"/problems/store-busy"}


def test_a_sender_that_falls_silent_is_cut_off_and_a_slow_one_is_not(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1") as it, stream(it) as silent, stream(it) as slow:
        started = time.monotonic()
        silent.send(noops(1))
        while not silent.closed():
            slow.send(noops(1))
            time.sleep(0.5)
            assert time.monotonic() - started < 40
        assert time.monotonic() - started > SILENCE - 1
        slow.end()
        assert set(statuses(slow.answer().receipts())) == {0}
        assert f"1 lines, of which 1 were accepted: nothing came for {SILENCE:g} s" in it.log.read_text()
        assert it.stats()["states"]["succeeded"] > 1


def test_a_client_that_takes_no_answer_is_cut_off_and_others_are_served(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1") as it, stream(it, buffer=4096) as deaf:
        deaf.send(b"x\n" * 100_000)  # more answer than all sockets hold
        deaf.end()
        wait_until(lambda: "were accepted: the answer was cut: TimeoutError" in it.log.read_text(), "cut off", 40)
        answer = deaf.answer()
        assert len(list(answer.receipts())) < 100_000
        assert not answer.whole
        assert statuses(receipts(it, noops(1))) == [0]
        assert "Traceback" not in it.log.read_text()


def test_a_client_that_leaves_keeps_the_jobs_it_has_put(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1") as it:
        with stream(it) as sender:
            sender.send(noops(500) + b'{"job":"no')
            wait_until(lambda: it.stats()["states"]["succeeded"] == 500, "all have run")
        wait_until(lambda: "500 lines, of which 500 were accepted: the client is gone" in it.log.read_text(), "told")
        assert it.stop() == 0
        assert "Traceback" not in it.log.read_text()
        assert sum(it.log.read_text().count(word) for word in ("WARNING", "ERROR")) == 0
    assert len(stored(file_of(tmp_path))) == 500


def test_a_stop_refuses_the_lines_that_come_after_it_and_answers_all(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", DRAIN="10") as it:
        with stream(it) as sender:
            sender.send(noops(300))
            wait_until(lambda: it.stats()["states"]["succeeded"] == 300, "all have run")
            it.process.terminate()
            wait_until(lambda: "draining" in it.log.read_text(), "it drains")
            late = post(it, noops(1)) if answers(f"{it.url}/healthz") else None
            sender.send(noops(300))
            sender.end()
            answer = sender.answer()
            told = list(answer.receipts())
        assert answer.whole
        assert answer.response.headers["Connection"] == "close"
        assert statuses(told) == [0] * 300 + [503] * 300
        assert {receipt["problem"]["type"] for receipt in told[300:]} == {"/problems/shutting-down"}
        assert late is None or late.status_code == 503
        assert it.process.wait(10) == 0
    assert set(ids(told)) == ids_in(file_of(tmp_path))


def test_a_body_that_goes_on_beyond_the_drain_time_is_answered_as_far_as_it_came(tmp_path: Path) -> None:
    assert any(body_beyond_the_drain_time(tmp_path / str(n)) for n in range(TRIES)), "the sender stood still each time"


def body_beyond_the_drain_time(folder: Path) -> bool:
    """Whether lines came while the last one was waited for."""
    folder.mkdir()
    with server(folder, PRODUCERS="1", DRAIN="1") as it, stream(it) as sender:
        sender.send(noops(10))
        wait_until(lambda: it.stats()["states"]["succeeded"] == 10, "all have run")
        stopped = time.monotonic()
        it.process.terminate()
        sent, pause = sender.send_until_answered()
        assert time.monotonic() - stopped >= 1  # the drain time
        if pause >= LAST_ANSWER:
            return False
        answer = sender.answer()
        told = list(answer.receipts())
        assert answer.whole
        assert len(told) <= 10 + sent + 1
        refused = statuses(told).count(503)
        assert refused > 1
        assert statuses(told) == [0] * (len(told) - refused) + [503] * refused
        assert "this line and those after it" in told[-1]["problem"]["detail"]
        assert told[-1]["problem"]["line"] == len(told)
        assert it.process.wait(10) == 0
        return True


def test_after_an_unknown_commit_the_lines_in_it_are_unknown_and_the_rest_is_refused(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1") as it, stream(it) as sender:
        sender.send(noops(10))
        wait_until(lambda: it.stats()["states"]["succeeded"] == 10, "all have run")
        shutil.copy(file_of(tmp_path), tmp_path / "copy")
        (tmp_path / "copy").rename(file_of(tmp_path))  # another file under the same name
        sender.send(noops(10))
        sender.end()
        answer = sender.answer()
        told = statuses(answer.receipts())
        assert answer.whole
        assert told[:10] == [0] * 10
        assert Counter(told[10:]).keys() <= {503, 504}
        wait_until(lambda: it.submit("noop") if answers(f"{it.url}/healthz") else None, "the next producer serves")


def test_where_no_room_is_left_for_receipts_the_answer_says_so(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={20 * MB}", "tmpfs", str(disk)], check=True)
    try:
        settings = {"BACKLOG": f"sqlite:{disk}/data/backlog.db", "DISK_RESERVE": str(8 * MB)}
        with server(tmp_path, PRODUCERS="1", **settings) as it:
            answer = receipts(it, b"x\n" * 100_000)  # 16 MB of receipts
            assert 1000 < len(answer) < 99_000
            assert statuses(answer) == [400] * (len(answer) - 1) + [507]
            assert "this line and those after it" in answer[-1]["problem"]["detail"]
            assert it.submit("noop")  # the rest of the disk is as it was
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_every_receipt_that_was_read_of_a_killed_producer_is_a_job_on_disk(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", SLOTS="1") as it:
        with stream(it, buffer=4096) as sender:
            for _ in range(30):
                sender.send(lines_of(*[SLEEP] * 1000) + b"x\n" * 2000)  # 12 MB of answer: more than all sockets hold
            sender.end()
            answer = sender.answer()
            told = list(answer.receipts(200_000))
            os.kill(it.producers()[0], signal.SIGKILL)
            told += answer.receipts()
        wait_until(lambda: answers(f"{it.url}/healthz"), "the next producer serves")
        assert not answer.whole
        assert 1000 < len(ids(told)) < 30_000
        assert set(statuses(told)) == {0, 400}
        jobs = ids_in(file_of(tmp_path))
        assert set(ids(told)) <= jobs
        assert len(jobs) == 30_000


def test_a_producer_that_is_killed_while_lines_come_keeps_what_is_on_disk_and_has_told_of_none(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", SLOTS="1") as it:
        with stream(it) as sender:
            for _ in range(5):
                sender.send(lines_of(*[SLEEP] * 1000))
            wait_until(lambda: it.stats()["states"]["queued"] > 1000, "some are stored")
            os.kill(it.producers()[0], signal.SIGKILL)
            assert sender.answer().status == 0
        wait_until(lambda: answers(f"{it.url}/healthz"), "the next producer serves")
        assert 1000 < len(ids_in(file_of(tmp_path))) <= 5000
