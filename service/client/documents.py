"""What is sent and what comes back, as frozen records. Times that come back are datetimes with their zone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import requests

from service.client.problems import JobFailed, Unexpected

ENDS = frozenset({"succeeded", "failed", "cancelled", "expired"})

# Not states of the service: what `Client.results` says of a job that was followed and cannot be shown.
REMOVED = "removed"  # 410: it has ended, and is not kept any more
MISSING = "missing"  # 404: it is not known there

R = TypeVar("R", bound="Summary | Receipt")


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to submit. What is left at None is as the function has it.

    delay, run_at         seconds, or a moment: not started before
    priority              -100 to 100, higher first
    timeout               seconds one attempt may take
    attempts              how many in all
    expires_in, deadline  seconds, or a moment: not started by then, it is expired, and never run
    callback              URL told of the final state, where the operator allows it
    idempotency_key       with the same one again it is no second job, for a day. Without one, every submit takes a
                          new one, which makes its own repetitions safe."""

    job: str
    args: Mapping[str, Any] = field(default_factory=dict)
    delay: float | None = field(default=None, kw_only=True)
    run_at: datetime | str | None = field(default=None, kw_only=True)
    priority: int | None = field(default=None, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)
    attempts: int | None = field(default=None, kw_only=True)
    expires_in: float | None = field(default=None, kw_only=True)
    deadline: datetime | str | None = field(default=None, kw_only=True)
    callback: str | None = field(default=None, kw_only=True)
    idempotency_key: str | None = field(default=None, kw_only=True)

    def body(self) -> bytes:
        """Raises TypeError or ValueError for what is not JSON; NaN is not."""
        return encode({name: getattr(self, name) for name in MEMBERS if getattr(self, name) is not None})


MEMBERS = [f.name for f in fields(Submission) if f.name != "idempotency_key"]


def encode(members: Mapping[str, Any]) -> bytes:
    """Raises TypeError or ValueError for what is not JSON."""
    return json.dumps(members, allow_nan=False, default=_moment).encode()


def _moment(value: Any) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is not JSON")
    if value.tzinfo is None:
        raise ValueError(f"{value!r} needs a time zone")
    return value.isoformat()


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`document` is the answer's JSON object as it came, with whatever newer servers add."""

    id: str
    job: str = ""
    document: dict[str, Any] = {}


class Receipt(Record, frozen=True, kw_only=True):
    """The job is accepted. `replayed`: its idempotency key was used before, and this is that job, however it stands;
    its state is None when it is not kept any more."""

    state: str | None
    durability: str = ""
    position: int | None = None
    estimated_start: datetime | None = None
    replayed: bool = False


class Error(msgspec.Struct, frozen=True):
    type: str
    message: str = ""
    traceback: str | None = None


class Summary(Record, frozen=True, kw_only=True):
    """A job in a list."""

    state: str
    priority: int = 0
    attempt: int = 0
    attempts: int = 0
    created_at: datetime | None = None
    run_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: Error | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDS or self.state in (REMOVED, MISSING)

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a job's history."""

    attempt: int = 0
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: str = ""
    reason: str | None = None
    output: str | None = None


class Job(Summary, frozen=True, kw_only=True):
    """A job, whole. `result` is None too while there is none; `value()` tells the two apart."""

    args: dict[str, Any] = {}
    timeout: float | None = None
    result: Any = None
    history: tuple[Attempt, ...] = ()

    def value(self) -> Any:
        """The result. Raises JobFailed, with the job, when it did not succeed."""
        if not self.succeeded:
            raise JobFailed(self)
        return self.result


def read(kind: type[R], response: requests.Response, **more: Any) -> R:
    """Raises Unexpected."""
    return convert(kind, json_object(response), **more)


def convert(kind: type[R], document: Any, **more: Any) -> R:
    """Raises Unexpected."""
    try:
        return msgspec.convert({**document, **more, "document": document}, kind)
    except (TypeError, msgspec.ValidationError) as error:
        raise Unexpected(f"a {kind.__name__.lower()} in an answer is not as agreed: {error}") from None


def json_object(response: requests.Response) -> dict[str, Any]:
    """Raises Unexpected."""
    if (document := lenient(response)) is None:
        asked = f"{response.request.method} {response.url}"
        raise Unexpected(f"{asked} was answered with {response.status_code} without a JSON object")
    return document


def lenient(response: requests.Response) -> dict[str, Any] | None:
    """The JSON object of the body, if it is one."""
    try:
        document = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
