"""The client against a real server: also while that is killed and started again."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from service.client import Client, Conflict, Job, NotFound, Receipt, Refused, Submission, TimedOut
from tests.support import ROOT, Server, server, wait_until

ENOUGH = 60.0  # seconds


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("client"), SLOTS="4", PRODUCERS="2") as it:
        yield it


@pytest.fixture
def client(running: Server) -> Iterator[Client]:
    with Client(running.url) as it:
        yield it


def accepted(outcomes: Iterator[Receipt | Refused]) -> list[Receipt]:
    receipts = list(outcomes)
    assert [each for each in receipts if isinstance(each, Refused)] == []
    return [each for each in receipts if isinstance(each, Receipt)]


def test_a_job_is_submitted_waited_for_and_its_value_is_there(client: Client) -> None:
    receipt = client.submit("primes", {"limit": 100})
    assert (receipt.job, receipt.durability, receipt.replayed) == ("primes", "fsync", False)
    seen = client.wait(receipt, timeout=ENOUGH)
    assert (seen.id, seen.value(), seen.args) == (receipt.id, 25, {"limit": 100})
    assert [attempt.outcome for attempt in seen.history] == ["succeeded"]
    assert client.status(receipt.id) == seen


def test_the_same_key_is_the_same_job(client: Client) -> None:
    first, again = (client.submit("noop", {"job_id": 1}, idempotency_key="mine") for _ in range(2))
    assert (first.id, again.replayed) == (again.id, True)
    with pytest.raises(Refused, match="422"):
        client.submit("noop", {"job_id": 2}, idempotency_key="mine")


def test_what_does_not_fit_is_refused_with_the_servers_words(client: Client) -> None:
    with pytest.raises(NotFound, match="nope") as caught:
        client.submit("nope")
    assert "primes" in caught.value.problem["known"]
    with pytest.raises(Refused, match="limit"):
        client.submit("primes", {"limit": "many"})


def test_results_come_in_the_order_in_which_jobs_end(client: Client) -> None:
    slow, quick = client.submit("sleep", {"seconds": 100.0}), client.submit("noop")
    results = client.results([slow, quick], timeout=ENOUGH)
    assert next(results).id == quick.id
    client.cancel(slow)
    assert [seen.id for seen in results] == [slow.id]


def test_hundreds_are_submitted_and_each_result_is_there_once(client: Client) -> None:
    submissions = (Submission("noop", {"job_id": number}) for number in range(300))
    results = list(client.results(client.submit_many(submissions), timeout=ENOUGH))
    assert sorted(seen.value() for seen in results) == list(range(300))


def test_one_that_waits_for_its_moment_hides_no_other(client: Client) -> None:
    late = client.submit("noop", delay=600)
    others = accepted(client.submit_many(Submission("noop") for _ in range(30)))
    results = client.results([late, *others], timeout=ENOUGH)
    assert {next(results).id for _ in others} == {each.id for each in others}
    client.cancel(late)
    assert next(results).state == "cancelled"


def test_a_wait_ends_when_its_time_is_up_and_the_job_goes_on(client: Client) -> None:
    receipt = client.submit("sleep", {"seconds": 100.0})
    with pytest.raises(TimedOut):
        client.wait(receipt, timeout=0.3)
    time.sleep(1)  # a cancelled one would be killed
    assert not client.status(receipt).ended
    client.cancel(receipt)


def test_queued_and_running_jobs_are_cancelled_and_ended_ones_are_not(client: Client) -> None:
    queued, runs = client.submit("noop", delay=600), client.submit("sleep", {"seconds": 100.0})
    assert client.cancel(queued).state == "cancelled"
    assert client.cancel(queued).state == "cancelled"  # again: it is what was asked for
    wait_until(lambda: client.status(runs).state == "running", "it runs")
    client.cancel(runs)
    assert client.wait(runs, timeout=ENOUGH).state == "cancelled"
    done = client.wait(client.submit("noop"), timeout=ENOUGH)
    with pytest.raises(Conflict):
        client.cancel(done)


def test_failed_jobs_are_listed_and_queued_again(client: Client) -> None:
    receipts = accepted(client.submit_many(Submission("flaky", {"failures": 1}, attempts=1) for _ in range(3)))
    failed = list(client.results(receipts, timeout=ENOUGH))
    assert {seen.state for seen in failed} == {"failed"}
    listed = list(client.jobs(state="failed", job="flaky", page=2))
    assert {each.id for each in listed} == {each.id for each in receipts}
    assert {each.error.message for each in listed if each.error} == {"attempt 1 fails as asked"}
    with pytest.raises(Conflict):
        client.retry(client.wait(client.submit("noop"), timeout=ENOUGH))
    again = client.retry(receipts[0])
    assert "requeued" in [attempt.outcome for attempt in again.history]
    assert client.retry_all("failed", "flaky") >= 2
    assert client.retry_all("expired", "flaky") == 0


def test_while_the_server_is_killed_and_restarted_each_job_is_accepted_and_run_once(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers are lost in the middle of a flood; repeated under its key, each job is one job."""
    caplog.set_level(logging.INFO, "service.client")
    many = 600
    with server(tmp_path_factory.mktemp("killed"), PRODUCERS="2") as it, Client(it.url) as client:
        receipts: list[Receipt | Refused] = []
        submissions = (Submission("noop", {"job_id": number}) for number in range(many))
        thread = threading.Thread(target=lambda: receipts.extend(client.submit_many(submissions)))
        thread.start()
        for already in (many // 6, many // 2):
            kill_and_restart(it, already)
        thread.join(ENOUGH)
        results = list(client.results(receipts, timeout=ENOUGH))
        assert sorted(seen.value() for seen in results) == list(range(many))
        assert stored(it) == many
    assert any("connection broken" in message for message in caplog.messages)


def kill_and_restart(it: Server, already: int) -> None:
    wait_until(lambda: stored(it) > already, "some are stored", ENOUGH)
    it.kill_everything()
    it.start()
    it.wait_until_ready()


def stored(it: Server) -> int:
    return sum(it.stats()["states"].values())


def test_the_example_prints_each_result_as_it_ends(running: Server) -> None:
    done = program(running, [str(ROOT / "examples/ten_thousand.py"), "40"])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 40
    assert "up to 20 there are 8 primes" in lines


def test_the_readmes_program_does_what_it_says(running: Server) -> None:
    readme = (ROOT / "README.md").read_text().partition("## The client")[2]
    (code,) = re.findall(r"```python\n(.*?)```", readme.partition("\n## ")[0], re.DOTALL)
    done = program(running, ["-c", code])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "9592"
    assert len(done.stdout.splitlines()) == 1 + 1000


def program(running: Server, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment: dict[str, Any] = os.environ | {"STORMDRAIN_URL": running.url, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_job_and_its_summary_say_the_same(client: Client) -> None:
    seen: Job = client.wait(client.submit("noop"), timeout=ENOUGH)
    summary = next(each for each in client.jobs(job="noop") if each.id == seen.id)
    for member in ("id", "job", "state", "priority", "attempt", "attempts", "created_at", "finished_at", "error"):
        assert getattr(summary, member) == getattr(seen, member)
