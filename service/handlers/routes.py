"""Every address: who serves it, and what is said of it. Tornado's routes and /openapi.json both come from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from service.errors import (
    BacklogFull,
    BadArguments,
    CrossSite,
    Crowded,
    Draining,
    KeyReused,
    Malformed,
    MissingScope,
    NoKey,
    NotFound,
    Removed,
    Stalled,
    StoreBroken,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StormdrainError,
    TooLarge,
    UnknownJob,
    WrongContentType,
    WrongState,
)
from service.handlers import answers, examples
from service.handlers.answers import Change, Document, LineReceipt, Page, Receipt, Retried, Statistics, Status
from service.handlers.body import KEY_PATTERN, Filter, Listing, Original, Submission, Waiting
from service.handlers.docs import Docs
from service.handlers.events import Events
from service.handlers.jobs import JobById, Jobs, Retry, RetryMany
from service.handlers.metrics import Metrics
from service.handlers.openapi import OpenApi
from service.handlers.operate import Health, Ready, Stats
from service.handlers.operation import (
    EVENTS,
    HTML,
    JSON,
    NDJSON,
    TEXT,
    Answer,
    Content,
    Fault,
    Operation,
    Parameter,
    Route,
    fault,
)
from service.handlers.original import Root

# What nginx answers by itself (nginx/errors.conf).
RATE_LIMIT = Fault(429, "rate-limit", "Too many requests from this address")
TOO_LONG = Fault(414, "too-large", "The address is too long")
NO_PRODUCER = Fault(502, "no-producer", "No producer answered: whether this was stored is unknown")
UNAVAILABLE = Fault(503, "unavailable", "Not available")
TOO_LATE = Fault(504, "too-late", "The producer did not answer in time: whether this was stored is unknown")
FULL = Fault(503, StoreFull.slug, StoreFull().title)  # of /readyz, which refuses nothing
NGINX = (TOO_LONG, RATE_LIMIT, NO_PRODUCER, UNAVAILABLE, TOO_LATE)


def open_faults(*errors: type[StormdrainError]) -> Sequence[Fault]:
    """These, and what any request may meet."""
    met: Sequence[type[StormdrainError]] = (Malformed, TooLarge, *errors)
    return (*map(fault, met), *NGINX)


def faults(*errors: type[StormdrainError]) -> Sequence[Fault]:
    """The same, where a key is asked for."""
    return open_faults(NoKey, MissingScope, *errors)


STORE = (StoreError, StoreBusy, StoreBroken, StoreCorrupt)
PUTS = (CrossSite, WrongContentType, UnknownJob, BadArguments, KeyReused, BacklogFull, StoreFull, *STORE)
GONE = (NotFound, Removed)

JOB_ID = Parameter(
    "id", "path", "of the job", {"type": "string", "pattern": f"^{answers.ID_PATTERN}$"}, True, examples.ID
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    "the same key within 24 h is the same job again; a string (RFC 8941), or a bare token",
    {"type": "string", "pattern": f"^(?:{KEY_PATTERN})$"},
    example='"order-17"',
)
PREFER = Parameter(
    "Prefer", "header", "`wait=10` (RFC 7240): answered when the job has ended, or after so many seconds, at most 60"
)
IF_NONE_MATCH = Parameter("If-None-Match", "header", "an ETag: answered 304 where nothing has changed since")
LAST_EVENT_ID = Parameter("Last-Event-ID", "header", "of the last event seen: what came after it is sent")


def query(kind: type[msgspec.Struct]) -> list[Parameter]:
    """The query of an address, from the Struct that it is checked by."""
    (reference,), found = msgspec.json.schema_components([kind], ref_template="{name}")
    members = found[reference["$ref"]]["properties"]
    resolved = {
        name: found[member["$ref"]] | member if "$ref" in member else member for name, member in members.items()
    }
    return [
        Parameter(
            name,
            "query",
            member["description"],
            {k: v for k, v in member.items() if k not in ("description", "$ref", "title")},
        )
        for name, member in resolved.items()
    ]


def document(sentence: str, *headers: str) -> Answer:
    return Answer(sentence, [Content(JSON, Document, {"a job": examples.DOCUMENT})], headers)


UNCHANGED = Answer("It has not changed.", headers=["ETag"])
FOLLOW = {name: "$response.body#/id" for name in ("getJob", "cancelJob", "retryJob", "followJob")}

ORIGINAL = Operation(
    "add",
    "The original form",
    "Puts the job `sleep`, one second by default, which returns its `job_id`. The same `job_id` twice is two jobs. "
    "Without a body, and where `Accept` has `text/html`, it is a page for people.",
    {
        200: Answer(
            "The job is on disk; or the page.",
            [Content(TEXT, None, {"accepted": "7 add\n"}), Content(HTML)],
            maybe=["Location", "Idempotency-Replayed"],
        )
    },
    faults(*PUTS),
    [IDEMPOTENCY_KEY],
    [Content(JSON, Original, {"a number": {"job_id": 7}, "a text": {"job_id": "seven"}})],
    body_required=False,
    tag="original form",
)

ROUTES = (
    Route(
        "/jobs",
        Jobs,
        {
            "post": Operation(
                "submitJob",
                "Submit a job",
                "Answered once the job is on disk. What is refused was not stored; a time-out, 502 or 504 means that "
                "it is unknown: repeat it with the same Idempotency-Key.",
                {
                    202: Answer(
                        "The job is on disk.",
                        [Content(JSON, Receipt, {"a receipt": examples.RECEIPT})],
                        ["Location"],
                        ["Preference-Applied", "Idempotency-Replayed"],
                        FOLLOW,
                    ),
                    200: Answer(
                        "Asked to wait for it: the job has ended. Or, of lines, a receipt for each, in order, written "
                        "when all of them are on disk or refused.",
                        [
                            Content(JSON, Document, {"a job": examples.DOCUMENT}),
                            Content(NDJSON, LineReceipt, {"of two lines": examples.LINE_RECEIPTS}),
                        ],
                        maybe=["Location", "Preference-Applied", "Idempotency-Replayed"],
                        links=FOLLOW,
                    ),
                },
                faults(*PUTS, *GONE),
                [IDEMPOTENCY_KEY, PREFER],
                [Content(JSON, Submission), Content(NDJSON, Submission, {"two lines": examples.LINES})],
                tag="jobs",
            ),
            "get": Operation(
                "listJobs",
                "List jobs",
                "Newest first. `next`, also in `Link`, is where the list goes on.",
                {
                    200: Answer(
                        "A page.",
                        [Content(JSON, Page, {"a page": examples.PAGE})],
                        maybe=["Link"],
                        links={"getJob": "$response.body#/jobs/0/id"},
                    )
                },
                faults(BadArguments, StoreError, StoreCorrupt),
                query(Listing),
                tag="jobs",
            ),
        },
    ),
    Route(
        "/jobs/retry",
        RetryMany,
        {
            "post": Operation(
                "retryJobs",
                "Run many again",
                "Jobs that ended badly before this request are queued again, with all their attempts.",
                {200: Answer("All that fit the filter.", [Content(JSON, Retried, {"three": Retried(3)})])},
                faults(CrossSite, WrongContentType, BadArguments, BacklogFull, StoreFull, *STORE),
                bodies=[
                    Content(
                        JSON,
                        Filter,
                        {
                            "what failed": {},
                            "what was cancelled of one function": {"state": "cancelled", "job": "sleep"},
                        },
                    )
                ],
                tag="jobs",
            )
        },
    ),
    Route(
        "/jobs/{id}",
        JobById,
        {
            "get": Operation(
                "getJob",
                "Follow a job",
                "The job as it stands, or, asked to wait, as it has ended.",
                {200: document("The job.", "ETag"), 304: UNCHANGED},
                faults(BadArguments, *GONE, StoreError, StoreCorrupt),
                [JOB_ID, *query(Waiting), IF_NONE_MATCH],
                tag="jobs",
            ),
            "delete": Operation(
                "cancelJob",
                "Cancel a job",
                "A queued job never runs; a running one is killed, with what it started.",
                {200: document("It was queued, and is cancelled."), 202: document("It runs, and is being killed.")},
                faults(CrossSite, *GONE, WrongState, *STORE),
                [JOB_ID],
                tag="jobs",
            ),
        },
    ),
    Route(
        "/jobs/{id}/retry",
        Retry,
        {
            "post": Operation(
                "retryJob",
                "Run a job again",
                "One that has failed, was cancelled or expired is queued again, with all its attempts.",
                {202: document("It is queued again.", "Location")},
                faults(CrossSite, *GONE, WrongState, BacklogFull, StoreFull, *STORE),
                [JOB_ID],
                tag="jobs",
            )
        },
    ),
    Route(
        "/jobs/{id}/events",
        Events,
        {
            "get": Operation(
                "followJob",
                "Follow a job's events",
                "Every change of its state as it happens, from the first or from after `Last-Event-ID`; the stream "
                "ends with the job. An event's `id` is the job's version, its `data` a Change.",
                {
                    200: Answer("The stream.", [Content(EVENTS, Change, {"an event": examples.STREAM})]),
                    204: Answer("The job has ended, and all has been seen: do not come back."),
                },
                faults(*GONE, Crowded, StoreError, StoreCorrupt),
                [JOB_ID, LAST_EVENT_ID],
                tag="jobs",
            )
        },
    ),
    Route("/", Root, {"get": ORIGINAL, "post": replace(ORIGINAL, id="addByPost")}),
    Route(
        "/stats",
        Stats,
        {
            "get": Operation(
                "getStatistics",
                "How the backlog stands",
                "Jobs by state, the pace of the last seconds, and what every producer runs.",
                {200: Answer("As it stands.", [Content(JSON, Statistics, {"one runs": examples.STATISTICS})])},
                faults(StoreError, StoreCorrupt),
            )
        },
    ),
    Route(
        "/healthz",
        Health,
        {
            "get": Operation(
                "getHealth",
                "Is it alive?",
                "Whether the process lives.",
                {200: Answer("It does.", [Content(JSON, Status, {"alive": Status("alive")})])},
                open_faults(),
            )
        },
    ),
    Route(
        "/readyz",
        Ready,
        {
            "get": Operation(
                "getReadiness",
                "Is it ready?",
                "Whether the store can be written and has room, jobs move, and this producer is not shutting down.",
                {200: Answer("It is.", [Content(JSON, Status, {"ready": Status("ready")})])},
                (*open_faults(Draining, Stalled, BacklogFull, *STORE), FULL),
            )
        },
    ),
    Route(
        "/metrics",
        Metrics,
        {
            "get": Operation(
                "getMetrics",
                "What is counted, for Prometheus",
                "The sums over all producers of all servers that share the backlog, also those that have ended.",
                {200: Answer("Prometheus's text format.", [Content(TEXT)])},
                faults(*STORE),
            )
        },
    ),
    Route(
        "/openapi.json",
        OpenApi,
        {
            "get": Operation(
                "getOpenApi",
                "This description",
                "OpenAPI 3.1, with the functions that can be run here and their arguments.",
                {200: Answer("The document.", [Content(JSON, dict)], ["ETag"]), 304: UNCHANGED},
                faults(),
                [IF_NONE_MATCH],
                tag="description",
            )
        },
    ),
    Route(
        "/docs",
        Docs,
        {
            "get": Operation(
                "getDocs",
                "This description as a page",
                "For people; it needs nothing from elsewhere.",
                {200: Answer("The page.", [Content(HTML)], ["ETag"]), 304: UNCHANGED},
                faults(),
                [IF_NONE_MATCH],
                tag="description",
            )
        },
    ),
)
