"""Somebody else holds the store for seconds: a person's shell, a backup tool, a producer that hangs in a write."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from pathlib import Path

import pytest
import requests

from tests.faults.faulty import TURN_LOCK, WRITE_LOCK, file_of, script, stored
from tests.support import Server, own_jobs, server, wait_until

COMMIT_TIMEOUT = 1.0
LOCKS = pytest.mark.parametrize("lock", [WRITE_LOCK, TURN_LOCK], ids=["the write lock", "the lock of turns"])

OWN_JOBS = """
import os
import time
from service.jobs import noop
from service.registry import job

@job
def waits(job_id: str, finish: str) -> None:
    while not os.path.exists(finish):
        time.sleep(0.05)
"""


def post(it: Server, job_id: object) -> tuple[requests.Response, float]:
    started = time.monotonic()
    body = {"job": "noop", "args": {"job_id": job_id}}
    return requests.post(f"{it.url}/jobs", json=body, timeout=20), time.monotonic() - started


def healthz(it: Server) -> float:
    """Seconds an answer takes."""
    started = time.monotonic()
    assert requests.get(f"{it.url}/healthz", timeout=20).status_code == 200
    return time.monotonic() - started


@LOCKS
def test_a_locked_store_refuses_in_time_stays_alive_and_accepts_again(tmp_path: Path, lock: str) -> None:
    with server(tmp_path, COMMIT_TIMEOUT=str(COMMIT_TIMEOUT), **own_jobs(tmp_path, OWN_JOBS)) as it:
        wait_until(lambda: len(it.stats()["producers"]) == 2, "both producers serve")
        before = it.submit("waits", job_id="before", finish=f"{tmp_path}/finish")
        it.wait_for(before, "running")
        took = []
        with script(lock, str(file_of(tmp_path))):
            (tmp_path / "finish").touch()
            for n in range(2):
                response, seconds = post(it, f"refused {n}")
                assert response.status_code == 503, response.text
                assert response.headers["Retry-After"] == "1"
                assert response.json()["type"] == "/problems/store-busy"
                took.append(seconds)
            assert COMMIT_TIMEOUT <= min(took) < COMMIT_TIMEOUT + 1.5
            assert max(took) < COMMIT_TIMEOUT + 6
            assert requests.get(f"{it.url}/readyz", timeout=20).status_code == 503
            assert statistics.median(healthz(it) for _ in range(50)) < 0.1
            assert it.job(before)["state"] == "running"  # what is read needs no lock
        wait_until(lambda: post(it, "after")[0].status_code == 202, "it accepts again")
        # It ended while nothing could be recorded: its outcome was kept until it could.
        assert [entry["outcome"] for entry in it.wait_for(before, "succeeded")["history"]] == ["succeeded"]
        wait_until(lambda: it.stats()["states"]["succeeded"] == 2, "all jobs have run")
        assert it.stop() == 0
    assert {json.loads(args)["job_id"] for args, _, _ in stored(file_of(tmp_path))} == {"before", "after"}


@LOCKS
def test_a_stop_does_not_wait_for_a_locked_store_without_end(tmp_path: Path, lock: str) -> None:
    with server(tmp_path, COMMIT_TIMEOUT=str(COMMIT_TIMEOUT), DRAIN="0.5") as it:
        wait_until(lambda: len(it.stats()["producers"]) == 2, "both producers serve")
        held = it.submit("sleep", seconds=60.0, job_id="held")
        it.wait_for(held, "running")
        with script(lock, str(file_of(tmp_path))):
            it.process.terminate()
            it.process.wait(20)
        it.start()
        it.wait_until_ready()
        assert it.wait_for(held, "running")["attempt"] == 1


@LOCKS
def test_a_producer_that_starts_while_the_store_is_locked_waits_for_it(tmp_path: Path, lock: str) -> None:
    with server(tmp_path, PRODUCERS="2", COMMIT_TIMEOUT="1") as it:
        wait_until(lambda: len(it.stats()["producers"]) == 2, "both producers serve")
        victim = it.producers()[0]
        with script(lock, str(file_of(tmp_path))):
            os.kill(victim, signal.SIGKILL)
            with pytest.raises(AssertionError, match="not within"):
                wait_until(lambda: it.process.poll() is not None, "the server ends", 4)
        wait_until(lambda: len(it.stats()["producers"]) == 2, "both producers serve again")
        it.wait_for(it.submit("noop", job_id="after"), "succeeded")


@LOCKS
def test_a_server_that_is_to_stop_while_it_waits_for_a_locked_store_stops(tmp_path: Path, lock: str) -> None:
    with server(tmp_path, PRODUCERS="1", DRAIN="1") as it:
        it.stop()
        with script(lock, str(file_of(tmp_path))):
            it.start()
            wait_until(lambda: "start: the backlog does not answer" in it.log.read_text(), "it waits")
            assert it.stop() == 0
            assert "did not stop in time" not in it.log.read_text()
