"""Pure: what follows this outcome of attempt n? No store; the time and the dice are passed in."""

from __future__ import annotations

from collections.abc import Callable
from random import random

import msgspec

from service.job import (
    Cancelled,
    Claim,
    Crashed,
    Outcome,
    Raised,
    Returned,
    Settlement,
    State,
    Succeeded,
    TimedOut,
    stamp,
)

CRASHES = 3  # a job that kills its slot this often is failed, however many attempts are left
LOSSES = 3  # a job that was there when so many producers died gets a process of its own, to die in alone
BACKOFF_MAX = 3600.0  # seconds; beyond an hour a longer wait tells nobody anything


def settle(
    claim: Claim,
    outcome: Outcome,
    worker: str,
    backoff: float,
    now: float,
    dice: Callable[[], float] = random,
) -> Settlement:
    """The settlement that follows. `backoff` is the function's, in seconds; `now` is since the epoch."""
    attempt, crashes, state, delay, result = claim.attempt, claim.crashes, State.QUEUED, 0.0, None
    match outcome:
        case Succeeded():
            state, result = State.SUCCEEDED, outcome.result
        case Cancelled():
            state = State.CANCELLED
        case Returned():
            attempt -= 1
            delay = outcome.delay
        case _:
            crashes += isinstance(outcome, Crashed)
            # Most likely another's doing; the count of crashes ends a job that does it again and again.
            attempt -= isinstance(outcome, Crashed) and not outcome.alone
            if attempt >= claim.job.attempts or crashes >= CRASHES:
                state = State.FAILED
            else:
                delay = wait(max(attempt, crashes, 1), backoff, dice)
    return Settlement(
        id=claim.job.id,
        token=claim.token,
        state=state,
        attempt=attempt,
        crashes=crashes,
        entry=history_entry(claim, outcome, state, worker, now),
        delay=delay,
        result=result,
        error=error_of(outcome),
    )


def last_chance(claim: Claim) -> bool:
    """Whether one more crash is its end."""
    return claim.crashes >= CRASHES - 1


def needs_process(claim: Claim) -> bool:
    """Also where its function asks for a thread."""
    return claim.losses >= LOSSES


def wait(attempt: int, backoff: float, dice: Callable[[], float]) -> float:
    """Exponential backoff, half of it jittered: jobs that failed together do not return together."""
    ceiling: float = min(backoff * 2 ** min(attempt - 1, 32), BACKOFF_MAX)
    return ceiling * (0.5 + dice() / 2)


def describe(outcome: Outcome) -> tuple[str, str | None]:
    """The outcome's word in the history, and its reason."""
    match outcome:
        case Succeeded():
            return "succeeded", None
        case Raised(type=kind, message=message):
            return "raised", f"{kind}: {message}"
        case Crashed(reason=reason):
            return "crashed", reason
        case TimedOut(limit=limit):
            return "timed_out", f"over its limit of {limit:g} s"
        case Returned(reason=reason):
            return "returned", reason
        case Cancelled():
            return "cancelled", "somebody asked for its end while it ran"


def error_of(outcome: Outcome) -> bytes | None:
    """The `error` member of the job: {type, message, traceback}."""
    error: dict[str, str | None]
    match outcome:
        case Succeeded() | Returned() | Cancelled():
            return None
        case Raised(type=kind, message=message, traceback=traceback):
            error = {"type": kind, "message": message, "traceback": traceback}
        case _:
            word, reason = describe(outcome)
            error = {"type": word, "message": reason, "traceback": None}
    return msgspec.json.encode(error)


def history_entry(claim: Claim, outcome: Outcome, state: State, worker: str, now: float) -> bytes:
    """A line of the job's history. `state` is what the job is in after it; `version` the job's then."""
    word, reason = describe(outcome)
    return msgspec.json.encode(
        {
            "attempt": claim.attempt,
            "worker": worker,
            "started_at": stamp(claim.started_at),
            "finished_at": stamp(now),
            "outcome": word,
            "reason": reason,
            "cpu_seconds": getattr(outcome, "cpu_seconds", None),
            "max_rss_bytes": getattr(outcome, "max_rss", None),
            "output": outcome.output or None,
            "state": state,
            "version": claim.token + 1,
        }
    )
