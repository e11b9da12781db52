"""Time goes wrong: the wall clock is set, a producer hangs and comes back."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from tests.faults.faulty import faulty_server, file_of, stored
from tests.support import own_jobs, server, wait_until

DAY = 86_400.0  # seconds

OWN_JOBS = """
import os
import time
from service.jobs import sleep
from service.registry import attempt, job

@job(timeout=6, attempts=1)
def too_long() -> None:
    time.sleep(60)

@job
def once(started: str, finish: str) -> None:
    open(started, "a").close()
    while not os.path.exists(finish):
        time.sleep(0.05)

@job(attempts=2, backoff=10)
def again() -> int:
    if attempt() == 1:
        raise RuntimeError("once")
    return attempt()
"""


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_a_step_of_the_wall_clock_moves_no_lease_no_retry_and_no_limit(tmp_path: Path, step: float) -> None:
    with faulty_server(tmp_path, "wall_clock_stepped", LEASE="6", **own_jobs(tmp_path, OWN_JOBS)) as it:
        held = it.submit("sleep", seconds=8.0)
        started = time.monotonic()
        retried, limited = it.submit("again"), it.submit("too_long")
        it.wait_for(limited, "running")
        wait_until(lambda: it.job(retried)["attempt"] == 1 and it.job(retried)["state"] == "queued", "a retry waits")
        it.arm(str(step))
        job = it.wait_for(limited, "failed", timeout=30)
        assert job["error"]["type"] == "timed_out"
        assert abs(seconds_of(job["history"][0]["finished_at"]) - time.time() - step) < 60  # the clock was stepped
        assert it.wait_for(retried, "succeeded", timeout=30)["attempt"] == 2
        assert time.monotonic() - started >= 5.0  # the shortest wait with this backoff
        # Its lease of 6 s was extended meanwhile, as by any clock.
        assert [entry["outcome"] for entry in it.wait_for(held, "succeeded", timeout=30)["history"]] == ["succeeded"]


def seconds_of(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def stop_between_its_turns(pid: int, file: Path) -> None:
    """SIGSTOP, but not while it holds the lock that all take in turn: then everybody would wait for it."""
    with Path(f"{file}.lock").open("a") as turns:

        def stopped() -> bool:
            os.kill(pid, signal.SIGSTOP)
            with suppress(BlockingIOError):
                fcntl.flock(turns, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(turns, fcntl.LOCK_UN)
                return True
            os.kill(pid, signal.SIGCONT)
            return False

        wait_until(stopped, f"{pid} is stopped")


def test_what_a_producer_says_after_it_hung_beyond_its_lease_is_refused(tmp_path: Path) -> None:
    with server(tmp_path, LEASE="6", COMMIT_TIMEOUT="2", **own_jobs(tmp_path, OWN_JOBS)) as it:
        wait_until(lambda: len(it.stats()["producers"]) == 2, "both producers serve")
        location = it.submit("once", started=f"{tmp_path}/started", finish=f"{tmp_path}/finish")
        hung = it.producer_of(location)
        wait_until((tmp_path / "started").exists, "the function runs")
        stop_between_its_turns(hung, file_of(tmp_path))

        def runs_again() -> bool:
            job = it.job(location)  # on a busy machine it may be lost more than once
            return job["state"] == "running" and {entry["outcome"] for entry in job["history"]} == {"lost"}

        try:
            wait_until(runs_again, "it was lost, and runs elsewhere")
            assert it.producer_of(location) != hung
        finally:
            os.kill(hung, signal.SIGCONT)
        # It settles what it held, while somebody else runs that: only the fencing token tells the two apart.
        wait_until(
            lambda: f"{hung} [-] attempt 1 of {location.rpartition('/')[2]} came too late" in it.log.read_text(),
            "it is refused",
        )
        assert runs_again(), it.job(location)
        (tmp_path / "finish").touch()
        *before, last = [entry["outcome"] for entry in it.wait_for(location, "succeeded")["history"]]
        assert (set(before), last) == ({"lost"}, "succeeded")
        assert it.stop() == 0
    ((_, state, attempt),) = stored(file_of(tmp_path))
    assert (state, attempt) == ("succeeded", 1)
