"""A job as it is shown: whole, as a line of a list, as the changes of its state."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from service.handlers.answers import Callback, Change, Document, Error, HistoryEntry, ListedJob, ShortError, stored
from service.job import Listed, Record, State, stamp


def moment(seconds: float | None) -> str | None:
    return stamp(seconds) if seconds is not None else None


def document(record: Record) -> Document:
    """A job as GET /jobs/{id} shows it."""
    job = record.job
    return Document(
        id=job.id,
        job=job.name,
        args=stored(job.args, dict[str, Any]),
        state=record.state,
        priority=job.priority,
        attempt=record.attempt,
        attempts=job.attempts,
        timeout=job.timeout,
        created_at=stamp(record.created_at),
        run_at=stamp(record.run_at),
        expires_at=moment(record.expires_at),
        started_at=moment(record.started_at),
        finished_at=moment(record.finished_at),
        result=stored(record.result, object) if record.result is not None else None,
        error=stored(record.error, Error) if record.error is not None else None,
        history=stored(record.history, list[HistoryEntry]),
        callback=stored(record.callback, Callback) if record.callback is not None else None,
    )


def line(job: Listed) -> ListedJob:
    """A job as GET /jobs shows it."""
    return ListedJob(
        id=job.id,
        job=job.name,
        state=job.state,
        priority=job.priority,
        attempt=job.attempt,
        attempts=job.attempts,
        created_at=stamp(job.created_at),
        run_at=stamp(job.run_at),
        started_at=moment(job.started_at),
        finished_at=moment(job.finished_at),
        error=stored(job.error, ShortError) if job.error is not None else None,
    )


class Event(NamedTuple):
    """A change of a job's state. `version` is the job's since then, and the event's id."""

    version: int
    data: Change


def events(record: Record) -> list[Event]:
    """The changes of a job's state, oldest first, as far back as its history goes."""
    id = record.job.id
    found = [Event(0, Change(id, State.QUEUED, stamp(record.created_at)))]
    for entry in msgspec.json.decode(record.history, type=list[HistoryEntry]):
        if not isinstance(entry.version, int) or not isinstance(entry.state, State):
            continue  # written by a release that did not count changes
        if entry.started_at:
            found.append(Event(entry.version - 1, Change(id, State.RUNNING, entry.started_at, entry.attempt)))
        change = Change(id, entry.state, entry.finished_at, entry.attempt, entry.outcome, entry.reason)
        found.append(Event(entry.version, change))
    if record.state == State.RUNNING:
        found.append(Event(record.version, Change(id, State.RUNNING, moment(record.started_at), record.attempt)))
    return found
