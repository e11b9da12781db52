"""What follows which outcome of which attempt: pure, so every case is a line."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service import retry
from service.job import Claim, Crashed, Job, Outcome, Raised, Returned, Settlement, State, Succeeded, TimedOut

NOW = 1_700_000_000.25
RAISED = Raised("ValueError", "on purpose", "Traceback …", 0.5, 4096)


def settled(outcome: Outcome, attempt: int = 1, attempts: int = 3, crashes: int = 0, dice: float = 1.0) -> Settlement:
    claim = Claim(Job("one", "sleep", b"{}", 60.0, attempts), 9, attempt, crashes, 0, NOW - 2)
    return retry.settle(claim, outcome, "w1", backoff=2.0, now=NOW, dice=lambda: dice)


def test_success_is_recorded_with_its_result() -> None:
    settlement = settled(Succeeded(b"[1]", 0.1), attempt=2)
    assert (settlement.id, settlement.token, settlement.state) == ("one", 9, State.SUCCEEDED)
    assert (settlement.result, settlement.error, settlement.attempt, settlement.delay) == (b"[1]", None, 2, 0.0)


@pytest.mark.parametrize("outcome", [RAISED, TimedOut(60.0), Crashed("SIGKILL")])
def test_a_failed_attempt_is_followed_by_another_while_there_are_any(outcome: Outcome) -> None:
    assert settled(outcome, attempt=2).state == State.QUEUED
    last = settled(outcome, attempt=3)
    assert (last.state, last.delay, last.result) == (State.FAILED, 0.0, None)
    assert last.error is not None
    assert settled(outcome, attempt=1, attempts=1).state == State.FAILED


def test_a_job_that_kills_its_slot_three_times_is_failed_with_the_reason() -> None:
    first, second, third = (settled(Crashed("killed by SIGSEGV"), n + 1, attempts=10, crashes=n) for n in range(3))
    assert [s.crashes for s in (first, second, third)] == [1, 2, 3]
    assert [s.state for s in (first, second, third)] == [State.QUEUED, State.QUEUED, State.FAILED]
    assert third.error is not None
    assert json.loads(third.error) == {"type": "crashed", "message": "killed by SIGSEGV", "traceback": None}


def test_only_crashes_count_as_crashes() -> None:
    assert settled(RAISED, attempt=3, attempts=10, crashes=2).state == State.QUEUED
    assert settled(TimedOut(1.0), crashes=2, attempts=10).crashes == 2


@pytest.mark.parametrize("attempt", [1, 3])
def test_what_was_returned_does_not_count_and_waits_for_nothing(attempt: int) -> None:
    settlement = settled(Returned("the producer stops"), attempt)
    assert (settlement.state, settlement.attempt, settlement.delay) == (State.QUEUED, attempt - 1, 0.0)
    assert settlement.error is None


def test_the_wait_doubles_and_half_of_it_is_jitter() -> None:
    assert [settled(RAISED, n, attempts=9, dice=1.0).delay for n in (1, 2, 3, 4)] == [2.0, 4.0, 8.0, 16.0]
    assert [settled(RAISED, n, attempts=9, dice=0.0).delay for n in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 8.0]


@given(st.integers(1, 10**9), st.floats(0, 1e6), st.floats(0, 1))
def test_no_wait_is_endless_or_negative(attempt: int, backoff: float, dice: float) -> None:
    wait = retry.wait(attempt, backoff, lambda: dice)
    assert math.isfinite(wait)
    assert 0 <= wait <= retry.BACKOFF_MAX


@pytest.mark.parametrize(
    ("outcome", "word", "reason", "cpu_seconds"),
    [
        (Succeeded(b"1", 0.25, 4096), "succeeded", None, 0.25),
        (RAISED, "raised", "ValueError: on purpose", 0.5),
        (Crashed("killed by SIGKILL"), "crashed", "killed by SIGKILL", None),
        (TimedOut(2.5), "timed_out", "over its limit of 2.5 s", None),
        (Returned("we stop"), "returned", "we stop", None),
    ],
)
def test_history_says_what_happened(outcome: Outcome, word: str, reason: str | None, cpu_seconds: float | None) -> None:
    assert json.loads(settled(replace(outcome, output="the last line\n"), attempt=2).entry) == {
        "attempt": 2,
        "worker": "w1",
        "started_at": "2023-11-14T22:13:18.250Z",
        "finished_at": "2023-11-14T22:13:20.250Z",
        "outcome": word,
        "reason": reason,
        "cpu_seconds": cpu_seconds,
        "max_rss_bytes": 4096 if cpu_seconds else None,
        "output": "the last line\n",
        "state": "succeeded" if word == "succeeded" else "queued",
        "version": 10,
    }


def test_the_error_of_an_exception_has_its_traceback() -> None:
    error = settled(RAISED).error
    assert error is not None
    assert json.loads(error) == {"type": "ValueError", "message": "on purpose", "traceback": "Traceback …"}


def test_a_crash_together_with_all_others_costs_no_attempt_and_still_ends_a_poison_loop() -> None:
    together = Crashed("the fork server died", alone=False)
    first = settled(together, attempt=1, attempts=1)
    assert (first.state, first.attempt, first.crashes) == (State.QUEUED, 0, 1)
    last = settled(together, attempt=1, attempts=1, crashes=2)
    assert (last.state, last.crashes) == (State.FAILED, 3)
