"""Answers as they may look, for whoever reads the description."""

from __future__ import annotations

import msgspec

from service.handlers.answers import (
    Busy,
    Change,
    Document,
    HistoryEntry,
    ListedJob,
    Page,
    Producer,
    Receipt,
    ShortError,
    Statistics,
)
from service.job import State

ID = "01a20c6c-af1c-74e0-b64a-700998b5b2c8"
WORKER = "host.17.a1b2c3"
AT = "2026-11-24T07:19:39.{}Z"

RECEIPT = Receipt(ID, "primes", State.QUEUED, "fsync", 1, AT.format("134"))
DOCUMENT = Document(
    id=ID,
    job="primes",
    args={"limit": 100000},
    state=State.SUCCEEDED,
    priority=0,
    attempt=1,
    attempts=3,
    timeout=300.0,
    created_at=AT.format("132"),
    run_at=AT.format("132"),
    expires_at=None,
    started_at=AT.format("140"),
    finished_at=AT.format("391"),
    result=9592,
    error=None,
    history=[
        HistoryEntry(
            attempt=1,
            worker=WORKER,
            started_at=AT.format("140"),
            finished_at=AT.format("391"),
            outcome="succeeded",
            reason=None,
            cpu_seconds=0.249,
            max_rss_bytes=31457280,
            output=None,
            state=State.SUCCEEDED,
            version=2,
        )
    ],
    callback=None,
)
LINES = '{"job": "noop", "args": {"job_id": 1}}\n{"job": "noop", "args": {"job_id": 2}}\n'
LINE_RECEIPTS = f'{{"id":"{ID}"}}\n{{"id":"{ID[:-1]}9"}}\n'
PAGE = Page(
    [
        ListedJob(
            id=ID,
            job="flaky",
            state=State.FAILED,
            priority=0,
            attempt=10,
            attempts=10,
            created_at=AT.format("132"),
            run_at=AT.format("802"),
            started_at=AT.format("804"),
            finished_at=AT.format("809"),
            error=ShortError("RuntimeError", "attempt 10 fails as asked"),
        )
    ],
    "/jobs?state=failed&limit=1&cursor=17",
)
STATISTICS = Statistics(
    states={state: 0 for state in State} | {State.RUNNING: 1, State.SUCCEEDED: 41},
    drained_per_second=3.5,
    oldest_queued_seconds=None,
    log_bytes=90672,
    producers=[Producer(WORKER, [Busy(ID, "primes", AT.format("140"))])],
)
CHANGE = Change(ID, State.RUNNING, AT.format("140"), 1)
STREAM = f"id: 1\nevent: state\ndata: {msgspec.json.encode(CHANGE).decode()}\n\n"
