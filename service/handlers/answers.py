"""What goes out. The Structs that are sent are those that /openapi.json describes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.job import State

T = TypeVar("T")

ID_PATTERN = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"

Id = Annotated[str, Meta(pattern=f"^{ID_PATTERN}$", description="a UUIDv7 (RFC 9562)")]
Stamp = Annotated[str, Meta(description="RFC 3339, in UTC", extra_json_schema={"format": "date-time"})]
Count = Annotated[int, Meta(ge=0)]


def stored(json: bytes, kind: type[T]) -> T:
    """JSON as it is on disk, sent on unread: to whoever is answered it is a `kind`."""
    return cast(T, msgspec.Raw(json))


class Receipt(msgspec.Struct):
    """A job that is on disk."""

    id: Id
    job: str
    state: Annotated[State | None, Meta(description="null where the job of this Idempotency-Key is not kept any more")]
    durability: Annotated[
        str,
        Meta(
            description="what it survives: a power cut, or not even an exit",
            extra_json_schema={"enum": ["fsync", "memory"]},
        ),
    ]
    position: Annotated[
        int | None, Meta(description="at most so many jobs start before it, this one counted; null while not due")
    ]
    estimated_start: Annotated[Stamp | None, Meta(description="by the pace of the last seconds; null when unknown")]


class LineProblem(msgspec.Struct):
    """Why a line was refused."""

    type: Annotated[str, Meta(description="/problems/ and the slug; stable")]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    line: Annotated[int, Meta(ge=1, description="counted from 1, empty ones too")]
    retry_after: Annotated[int | UnsetType, Meta(description="seconds")] = UNSET


class LineReceipt(msgspec.Struct):
    """What became of a line: a job on disk, or a problem."""

    id: Id | UnsetType = UNSET
    problem: LineProblem | UnsetType = UNSET


class Error(msgspec.Struct):
    """Why a job failed last."""

    type: Annotated[str, Meta(description="the exception's class, or crashed, timed_out")]
    message: str | None
    traceback: str | None


class ShortError(msgspec.Struct):
    """Why a job failed last."""

    type: Annotated[str, Meta(description="the exception's class, or crashed, timed_out")]
    message: str | None


class HistoryEntry(msgspec.Struct):
    """An attempt, or what else happened to the job."""

    attempt: Annotated[int, Meta(ge=0, description="counted from 1; 0 before the first")]
    worker: Annotated[str | None, Meta(description="the producer that ran it; null where none did")]
    started_at: Stamp | None
    finished_at: Stamp
    outcome: Annotated[
        Literal["succeeded", "raised", "crashed", "timed_out", "returned", "lost", "cancelled", "expired", "requeued"],
        Meta(
            description="raised: an exception; crashed: its process ended; returned: given back, which costs no "
            "attempt; lost: its producer died or hung; requeued: somebody asked for it"
        ),
    ]
    reason: str | None
    cpu_seconds: float | None
    max_rss_bytes: int | None
    output: Annotated[str | None, Meta(description="the last that the attempt has printed")] = None
    state: Annotated[State | UnsetType, Meta(description="the job's afterwards")] = UNSET
    version: Annotated[int | UnsetType, Meta(description="the job's afterwards")] = UNSET


class Callback(msgspec.Struct):
    """What became of telling a URL of the job's end."""

    url: str
    state: Literal["waiting", "pending", "delivered", "failed"]
    tries: Count
    error: Annotated[str | None, Meta(description="of the last try")]


class Document(msgspec.Struct):
    """A job as it stands."""

    id: Id
    job: str
    args: dict[str, Any]
    state: State
    priority: int
    attempt: Annotated[int, Meta(ge=0, description="attempts so far, also the one that runs")]
    attempts: Annotated[int, Meta(ge=1, description="attempts in all")]
    timeout: Annotated[float, Meta(description="seconds one attempt may take")]
    created_at: Stamp
    run_at: Annotated[Stamp, Meta(description="not started before then")]
    expires_at: Annotated[Stamp | None, Meta(description="not started by then: expired")]
    started_at: Stamp | None
    finished_at: Stamp | None
    result: Annotated[Any, Meta(description="what the function returned; null until then")]
    error: Error | None
    history: Annotated[list[HistoryEntry], Meta(description="oldest first, the newest 100")]
    callback: Callback | None


class ListedJob(msgspec.Struct):
    """A job as a line of a list."""

    id: Id
    job: str
    state: State
    priority: int
    attempt: Count
    attempts: int
    created_at: Stamp
    run_at: Stamp
    started_at: Stamp | None
    finished_at: Stamp | None
    error: ShortError | None


class Page(msgspec.Struct):
    """A part of the list of jobs."""

    jobs: Annotated[
        list[ListedJob], Meta(description="newest first; may be fewer than asked for, even none, before the end")
    ]
    next: Annotated[str | None, Meta(description="where the list goes on; null at its end")]


class Change(msgspec.Struct):
    """A change of a job's state: the `data` of an event."""

    id: Id
    state: State
    at: Stamp | None
    attempt: int | UnsetType = UNSET
    outcome: str | UnsetType = UNSET
    reason: str | UnsetType | None = UNSET


class Retried(msgspec.Struct, omit_defaults=True):
    """How many jobs are queued again."""

    retried: Count
    complete: Annotated[bool, Meta(description="false: there may be more, ask again")] = True


class Busy(msgspec.Struct):
    """What a slot runs."""

    id: Id
    job: str
    started_at: Stamp


class Producer(msgspec.Struct):
    """A process that accepts and runs jobs."""

    worker: str
    running: list[Busy]


class Statistics(msgspec.Struct):
    """How the backlog stands."""

    states: Annotated[dict[State, int], Meta(description="jobs by state")]
    drained_per_second: Annotated[float, Meta(ge=0, description="jobs that ended a second, lately, at all producers")]
    oldest_queued_seconds: Annotated[
        float | None, Meta(description="for how long the oldest job has been waiting that could run")
    ]
    log_bytes: Annotated[int, Meta(ge=0, description="of the store's write-ahead log")]
    producers: list[Producer]


class Status(msgspec.Struct):
    """How the answering process is."""

    status: Literal["alive", "ready"]


class Problem(msgspec.Struct):
    """What is amiss (RFC 9457)."""

    type: Annotated[str, Meta(description="/problems/ and the slug; stable")]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    instance: Annotated[str, Meta(description="the request's id, as in the log")]
    known: Annotated[list[str] | UnsetType, Meta(description="the jobs that can be run")] = UNSET
    job: str | UnsetType = UNSET
    state: State | UnsetType = UNSET
