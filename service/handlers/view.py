"""A job as it is shown: whole, as a line of a list, as the changes of its state."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from service.job import Listed, Record, State, stamp


def moment(seconds: float | None) -> str | None:
    return stamp(seconds) if seconds is not None else None


def raw(json: bytes | None) -> msgspec.Raw | None:
    return msgspec.Raw(json) if json is not None else None


def document(record: Record) -> dict[str, Any]:
    """A job as GET /jobs/{id} shows it."""
    job = record.job
    return {
        "id": job.id,
        "job": job.name,
        "args": msgspec.Raw(job.args),
        "state": record.state,
        "priority": job.priority,
        "attempt": record.attempt,
        "attempts": job.attempts,
        "timeout": job.timeout,
        "created_at": stamp(record.created_at),
        "run_at": stamp(record.run_at),
        "expires_at": moment(record.expires_at),
        "started_at": moment(record.started_at),
        "finished_at": moment(record.finished_at),
        "result": raw(record.result),
        "error": raw(record.error),
        "history": msgspec.Raw(record.history),
        "callback": raw(record.callback),
    }


def line(job: Listed) -> dict[str, Any]:
    """A job as GET /jobs shows it."""
    return {
        "id": job.id,
        "job": job.name,
        "state": job.state,
        "priority": job.priority,
        "attempt": job.attempt,
        "attempts": job.attempts,
        "created_at": stamp(job.created_at),
        "run_at": stamp(job.run_at),
        "started_at": moment(job.started_at),
        "finished_at": moment(job.finished_at),
        "error": raw(job.error),
    }


class Event(NamedTuple):
    """A change of a job's state. `version` is the job's since then, and the event's id."""

    version: int
    data: dict[str, Any]


def events(record: Record) -> list[Event]:
    """The changes of a job's state, oldest first, as far back as its history goes."""
    found = [Event(0, {"state": State.QUEUED, "at": stamp(record.created_at)})]
    for entry in msgspec.json.decode(record.history):
        if "version" not in entry:  # written by a release that did not count changes
            continue
        attempt = {"attempt": entry["attempt"]}
        if entry["started_at"]:
            found.append(Event(entry["version"] - 1, {"state": State.RUNNING, "at": entry["started_at"], **attempt}))
        what = {"outcome": entry["outcome"], "reason": entry["reason"]}
        found.append(Event(entry["version"], {"state": entry["state"], "at": entry["finished_at"], **attempt, **what}))
    if record.state == State.RUNNING:
        at = moment(record.started_at)
        found.append(Event(record.version, {"state": State.RUNNING, "at": at, "attempt": record.attempt}))
    return found
