"""What travels, and what happened to it. Everything here is frozen, and cheap to make: a dataclass takes five times as
long, and a flood makes several for each job.

put ──► queued ──claim──► running ──settle──► succeeded
          ▲                  │                failed      attempts or crashes are used up
          │                  │                cancelled   somebody asked
          ├── retry, return, ┘                expired     not started by its deadline
          │   or its producer died               │
          └──────────── requeue ─────────────────┘
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum

import msgspec
from uuid_utils import uuid7

HISTORY_MAX = 100  # lines kept of a job's history, the newest


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the dead-letter list: attempts are used up, the reason is recorded
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


REQUEUED_FROM = (State.FAILED, State.CANCELLED, State.EXPIRED)


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unguessable, and in order of time, so that index pages are filled one by one."""
    return str(uuid7())


def stamp(seconds: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Job(msgspec.Struct, frozen=True):
    """A job as it is put. `args` is a JSON object in UTF-8; `timeout` is seconds for one attempt."""

    id: str
    name: str
    args: bytes
    timeout: float
    attempts: int
    priority: int = 0
    delay: float = 0.0  # of the put only: seconds before it can be claimed
    expires_in: float | None = None  # of the put only: seconds; what is not started by then never is
    callback: str | None = None  # URL that is told of its end
    key: str | None = None  # of the put only: the idempotency key; with the same one again, it is no second job
    fingerprint: bytes = b""  # of the put only: what the client asked for, to tell a repetition from another request

    @property
    def label(self) -> str:
        """What the log calls it: its job_id argument, as JSON and so on one line, or its id."""
        try:
            job_id = msgspec.json.decode(self.args).get("job_id")
        except RecursionError:  # the door could read it, where fewer calls were under way
            job_id = None
        return self.id if job_id is None else json.dumps(job_id)


class Receipt(msgspec.Struct, frozen=True):
    """What a put came to: the job that stands for it."""

    id: str
    new: bool = True  # False: it was here already
    same: bool = True  # False: the idempotency key was used for another request, and nothing was stored
    state: State | None = State.QUEUED  # None: ended, and not kept any more
    position: int | None = None  # in the backlog, 1 is next: at most so many start before it. None while not due


class Claim(msgspec.Struct, frozen=True):
    """A job as a consumer holds it. `token` is the fencing token: only its holder can settle the job."""

    job: Job
    token: int
    attempt: int  # this one, counted from 1
    crashes: int  # attempts that killed their slot, so far
    losses: int  # producers that died, or hung, while they held it
    started_at: float  # seconds since the epoch, for people; no deadline hangs on it
    waited: float = 0.0  # seconds since it was due

    def __hash__(self) -> int:
        """Of all members it would cost more than all that is done with it; equal ones have equal ids and tokens."""
        return hash((self.job.id, self.token))


class Record(msgspec.Struct, frozen=True):
    """A job as status pages show it. Times are seconds since the epoch; JSON columns are bytes as stored."""

    job: Job
    state: State
    attempt: int
    version: int  # grows with every change of state
    created_at: float
    run_at: float
    expires_at: float | None
    started_at: float | None
    finished_at: float | None
    result: bytes | None
    error: bytes | None
    history: bytes
    callback: bytes | None = None  # {url, state, tries, error}


class Callback(msgspec.Struct, frozen=True):
    """The end of a job, as its URL is told of it."""

    place: int
    job: str  # its id
    version: int  # the job's
    url: str
    tries: int  # this one, counted from 1
    name: str  # the job's, and the rest too
    state: State
    attempt: int
    finished_at: float  # seconds since the epoch
    result: bytes | None  # JSON
    error: bytes | None  # JSON


class Listed(msgspec.Struct, frozen=True):
    """A job as a line of a list. Times are seconds since the epoch; `error` is {type, message} as JSON."""

    id: str
    name: str
    state: State
    priority: int
    attempt: int
    attempts: int
    created_at: float
    run_at: float
    started_at: float | None
    finished_at: float | None
    error: bytes | None


class Running(msgspec.Struct, frozen=True):
    """One busy slot, as /stats shows it."""

    worker: str
    id: str
    name: str
    started_at: float


# What an attempt came to. The executor returns one of these, never an exception.


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What all of them have: the last that the attempt has printed, and how long it ran, where its process has told."""

    output: str = ""
    seconds: float | None = None


class Succeeded(Ended, frozen=True):
    result: bytes  # JSON
    cpu_seconds: float | None = None
    max_rss: int | None = None  # bytes, the most that the slot's process has had so far


class Raised(Ended, frozen=True):
    """The function raised, or what it returned is not JSON."""

    type: str
    message: str
    traceback: str
    cpu_seconds: float | None = None
    max_rss: int | None = None


class Crashed(Ended, frozen=True):
    """The slot's process died under the job."""

    reason: str
    alone: bool = True  # False: with all slots of its producer, since their fork server died


class TimedOut(Ended, frozen=True):
    limit: float  # seconds


class Returned(Ended, frozen=True):
    """Not the job's doing, a stop for instance: the attempt does not count."""

    reason: str
    delay: float = 0.0  # seconds before it can be claimed again


class Cancelled(Ended, frozen=True):
    """Somebody asked for its end while it ran."""


Outcome = Succeeded | Raised | Crashed | TimedOut | Returned | Cancelled


class Settlement(msgspec.Struct, frozen=True):
    """What to record for a claim: the state that follows, and the line in the job's history."""

    id: str
    token: int
    state: State
    attempt: int  # as it shall stand afterwards: one less where the attempt does not count
    crashes: int
    entry: bytes  # JSON object, appended to the history
    delay: float = 0.0  # seconds until the next attempt, when state is queued
    result: bytes | None = None
    error: bytes | None = None
