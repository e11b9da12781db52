"""A job as a line and as a page. Pure; nothing from a server reaches a terminal as it came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from service.client import Attempt, Job, Receipt, Refused, Summary, Unavailable
from service.client.documents import MISSING, REMOVED

GAP = "  "
STATE, NAME, ATTEMPT = 9, 12, 5  # columns; longer ones push the rest aside
LABEL = 9

SPECIAL = {REMOVED: "has ended, and is not kept any more", MISSING: "there is no such job"}


def inert(text: str) -> str:
    """On one line, and without what a terminal obeys: escape sequences, and marks that turn the direction of text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def as_json(value: Any) -> str:
    return inert(json.dumps(value, separators=(",", ":")))


def line(job: Summary) -> str:
    """id, state, function, attempts, and what matters in that state."""
    attempt = f"{job.attempt}/{job.attempts}" if job.attempts else ""
    return columns(job.id, job.state, job.job, f"{attempt:<{ATTEMPT}}", told(job))


def told(job: Summary) -> str:
    if job.state in SPECIAL:
        return SPECIAL[job.state]
    if job.succeeded:
        result = as_json(job.result) if isinstance(job, Job) else ""
        return f"{took(job.started_at, job.finished_at):>8}{GAP}{result}"
    if job.error:
        return inert(f"{job.error.type}: {job.error.message}")
    if job.state == "running":
        return f"since {moment(job.started_at)}"
    return f"from {moment(job.run_at)}" if job.state == "queued" else moment(job.finished_at)


def receipt(it: Receipt) -> str:
    parts = [f"on disk: {it.durability}" if it.durability else "", "as before" if it.replayed else ""]
    if it.position is not None:
        parts.append(f"position {it.position}")
    if it.estimated_start:
        parts.append(f"starts about {moment(it.estimated_start)}")
    return columns(it.id, it.state or "", it.job, ", ".join(part for part in parts if part))


def columns(id: str, state: str, name: str, *more: str) -> str:
    return GAP.join([inert(id), f"{inert(state):<{STATE}}", f"{inert(name):<{NAME}}", *map(inert, more)]).rstrip()


def page(job: Job) -> Iterator[str]:
    """All of one job, for people."""
    yield labelled("id", job.id)
    yield labelled("job", f"{job.job} {as_json(job.args)}")
    yield labelled("state", f"{job.state}, attempt {job.attempt} of {job.attempts}")
    for name, at in (("created", job.created_at), ("runs", job.run_at), ("started", job.started_at)):
        if at and (name != "runs" or job.state == "queued"):
            yield labelled(name, moment(at))
    if job.finished_at:
        yield labelled("ended", f"{moment(job.finished_at)}, after {took(job.started_at, job.finished_at)}")
    yield from end(job)
    for attempt in job.history:
        yield from lived(attempt)


def end(job: Job) -> Iterator[str]:
    if job.succeeded:
        yield labelled("result", as_json(job.result))
    if job.error:
        yield labelled("error", f"{job.error.type}: {job.error.message}")
        yield from indented(job.error.traceback or "")


def lived(attempt: Attempt) -> Iterator[str]:
    """A line of the history, and what that attempt has printed."""
    head = f"{attempt.attempt}: {attempt.outcome}" + (f", {attempt.reason}" if attempt.reason else "")
    yield labelled("attempt", f"{head} ({took(attempt.started_at, attempt.finished_at)}, {attempt.worker or 'nobody'})")
    yield from indented(attempt.output or "")


def labelled(name: str, text: str) -> str:
    return f"{name:<{LABEL}}{inert(text)}"


def indented(text: str) -> Iterator[str]:
    return (" " * LABEL + inert(line) for line in text.splitlines())


def moment(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z" if at else ""


def took(began: datetime | None, ended: datetime | None) -> str:
    return f"{(ended - began).total_seconds():.2f} s" if began and ended else "no time"


def refusal(refused: Refused) -> str:
    known = refused.problem.get("known")
    names = f"; there are {', '.join(map(str, known))}" if isinstance(known, list) else ""
    return inert(f"refused: {refused}{names}")


def unavailable(error: Unavailable, url: str) -> str:
    done = "; it may have been done all the same" if error.unknown else ""
    hint = "" if error.problem else ". Is the stack up (make up)? Another address: --url or STORMDRAIN_URL"
    return inert(f"no usable answer from {url}: {error.reason}{done}{hint}")
