"""HTTP in, one backlog call, HTTP out. No rules here: those are in registry, retry and the engines.

The contract is in the README. Whatever is refused is refused before anything is stored, as problem+json (RFC 9457).
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import msgspec
from tornado.web import Application, HTTPError, RequestHandler

from service import registry
from service.backlog.aio import AsyncBacklog
from service.config import Config
from service.consumer import Consumer
from service.errors import (
    BacklogFull,
    BadArguments,
    CrossSite,
    KeyReused,
    Malformed,
    NotFound,
    Refused,
    Removed,
    StoreError,
    StoreFull,
    StormdrainError,
    TooLarge,
    WrongContentType,
    WrongMethod,
)
from service.job import Job, Record, State, new_id, stamp
from service.log import request_id

log = logging.getLogger(__name__)

DISK_AGAIN = 30  # seconds; somebody has to make room
RETRY_AFTER_MAX = 60  # seconds; where nothing is run at all, somebody may be mending it

KEY_MAX = 255  # characters
QUOTED = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])*"')
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~:/-]+")
ID = re.compile(r"[A-Za-z0-9-]{1,64}")
JOB_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
# What curl says of a -d body when nobody told it otherwise; the body is JSON all the same.
JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded")

# What a browser says of a request that no other site's page has caused (Fetch Metadata). Without this, any page
# that a developer visits could send jobs to the stack on loopback.
OWN_SITE = ("none", "same-origin")

LANDING = (Path(__file__).parent / "landing.html").read_text()
STYLE = LANDING.partition("<style>")[2].partition("</style>")[0]
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
PAGE_POLICY = f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'"


@dataclass
class Server:
    """What the handlers of one producer share."""

    config: Config
    backlog: AsyncBacklog
    consumer: Consumer
    draining: bool = False

    def retry_after(self, slug: str) -> int:
        """Whole seconds. A full backlog has room for a hundredth of it when so much has been run."""
        if slug == StoreFull.slug:
            return DISK_AGAIN
        if slug != BacklogFull.slug:
            return 1
        wanted, rate = self.config.backlog_max / 100, self.backlog.drain_rate
        return round(min(max(wanted / rate, 1.0), RETRY_AFTER_MAX)) if rate else RETRY_AFTER_MAX


class Submission(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /jobs."""

    job: str
    args: dict[str, Any] = {}


class Original(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the original form."""

    job_id: int | str


def parse(body: bytes, kind: type[msgspec.Struct]) -> Any:
    """Strict JSON as `kind`. Raises Malformed (not JSON, or ambiguous) or BadArguments (JSON of another shape)."""
    try:
        json.loads(body, object_pairs_hook=_no_duplicates)
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise BadArguments(str(error)) from None
    except RecursionError:
        raise Malformed("the JSON is nested too deeply") from None
    except (ValueError, msgspec.DecodeError) as error:
        raise Malformed(f"the body is not JSON: {error}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


def idempotency_key(header: str | None) -> str | None:
    """The key of a string (RFC 8941) or a bare token. Raises Malformed."""
    if header is None:
        return None
    text = header.strip()
    if QUOTED.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    elif not TOKEN.fullmatch(text):
        raise Malformed('Idempotency-Key is a string such as "order-17", or a bare token')
    if not 1 <= len(text) <= KEY_MAX:
        raise Malformed(f"Idempotency-Key has 1 to {KEY_MAX} characters")
    return text


def fingerprint(name: str, args: dict[str, Any]) -> bytes:
    """The same for the same request, however its members are ordered."""
    return hashlib.sha256(msgspec.json.encode([name, args], order="sorted")).digest()


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
        "started_at": stamp(record.started_at) if record.started_at else None,
        "finished_at": stamp(record.finished_at) if record.finished_at else None,
        "result": msgspec.Raw(record.result) if record.result is not None else None,
        "error": msgspec.Raw(record.error) if record.error is not None else None,
        "history": msgspec.Raw(record.history),
    }


class Handler(RequestHandler):
    methods: ClassVar[tuple[str, ...]] = ("GET", "HEAD")

    def initialize(self) -> None:
        self.server: Server = self.application.settings["server"]
        # Taken away, or Tornado would parse the body as a form before prepare() is asked.
        content_type: str = self.request.headers.pop("Content-Type", "")
        self.content_type = content_type.partition(";")[0].strip().lower()

    def set_default_headers(self) -> None:
        given = self.request.headers.get("X-Request-ID", "")
        self.request_id = given if ID.fullmatch(given) else uuid4().hex
        self.clear_header("Server")
        self.set_header("X-Request-ID", self.request_id)
        if self.application.settings["server"].draining:
            self.set_header("Connection", "close")  # nginx takes its next request to another producer
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        request_id.set(self.request_id)
        if self.request.method not in self.methods:
            raise WrongMethod(f"{self.request.method} is not allowed here: use {', '.join(self.methods)}")
        if self.request.method == "POST" and self.request.headers.get("Sec-Fetch-Site", "none") not in OWN_SITE:
            raise CrossSite("a page of another site asks for this; browsers may send jobs from here only")
        if len(self.request.body) > self.server.config.body_max:
            raise TooLarge(f"the body is above BODY_MAX={self.server.config.body_max} bytes")

    def compute_etag(self) -> None:
        return None  # no hash over every answer

    def head(self, *arguments: str) -> Any:
        return self.get(*arguments)

    def answer(self, status: int, body: Any) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(body) + b"\n")

    def body(self, kind: type[msgspec.Struct]) -> Any:
        """The request's body. Raises WrongContentType, Malformed, BadArguments."""
        if self.content_type not in JSON_TYPES:
            raise WrongContentType("send application/json")
        return parse(self.request.body, kind)

    async def accept(self, name: str, args: dict[str, Any]) -> Job:
        """Store a job; it is on disk when this returns. Raises Refused, StoreError."""
        function = registry.find(name)
        function.check(args)
        encoded = msgspec.json.encode(args)
        job = Job(
            new_id(),
            name,
            encoded,
            function.timeout,
            function.attempts,
            key=idempotency_key(self.request.headers.get("Idempotency-Key")),
            fingerprint=fingerprint(name, args),
        )
        receipt = await self.server.backlog.put(job)
        if not receipt.same:
            raise KeyReused("this Idempotency-Key was used for another request: take a new one for each job")
        self.set_header("Location", f"/jobs/{receipt.id}")
        if receipt.new:
            self.server.consumer.wake()
            log.info("job add:%s", job.label)
        else:
            self.set_header("Idempotency-Replayed", "true")
        return replace(job, id=receipt.id)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, StormdrainError):
            self.problem(error.status, error.slug, error.title, error.detail, error.members)
        elif isinstance(error, HTTPError) and status_code < 500:
            slug = WrongMethod.slug if status_code == 405 else Malformed.slug
            self.problem(status_code, slug, self._reason, error.log_message or "", {})
        else:
            self.problem(500, StormdrainError.slug, "Internal error", "it is in the log under this instance", {})

    def problem(self, status: int, slug: str, title: str, detail: str, members: dict[str, Any]) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/problem+json")
        if status in (503, 507):
            self.set_header("Retry-After", str(self.server.retry_after(slug)))
        if status == 405:
            self.set_header("Allow", ", ".join(self.methods))
        problem = {"type": f"/problems/{slug}", "title": title, "status": status, "detail": detail}
        self.finish(msgspec.json.encode(problem | {"instance": self.request_id} | members) + b"\n")

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if isinstance(value, (Refused, HTTPError)):
            log.debug("refused: %s", value)  # a client's mistake is no event of ours
        elif isinstance(value, StoreError):
            log.warning("the backlog: %s", value)
        else:
            super().log_exception(typ, value, tb)


class Root(Handler):
    """The original form: a request with a JSON body, whether GET or POST, puts a job. Without a body: a person."""

    methods = ("GET", "HEAD", "POST")

    async def get(self) -> None:
        if self.request.body:
            return await self.post()
        if "text/html" not in self.request.headers.get("Accept", ""):
            raise Malformed('send {"job_id": 7} to run sleep, or POST a job to /jobs', known=registry.names())
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", PAGE_POLICY)
        self.finish(LANDING)

    async def post(self) -> None:
        if not self.request.body:
            return await self.get()  # nginx hands every request for / on as a POST, see nginx/original.conf
        job_id = self.body(Original).job_id
        await self.accept("sleep", {"job_id": job_id})
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{job_id} add\n")


class Jobs(Handler):
    methods = ("POST",)

    async def post(self) -> None:
        submission = self.body(Submission)
        job = await self.accept(submission.job, submission.args)
        self.answer(
            202,
            {
                "id": job.id,
                "job": job.name,
                "state": State.QUEUED,
                "durability": self.server.backlog.durability,
            },
        )


class JobById(Handler):
    async def get(self, id: str) -> None:
        record = await self.server.backlog.get(id)
        if record is None:
            if await self.server.backlog.removed(id):
                raise Removed(f"job {id} is not kept any more: if it was accepted once, it has ended (KEEP, KEEP_MAX)")
            raise NotFound(f"there is no job {id}")
        self.answer(200, document(record))


class Stats(Handler):
    async def get(self) -> None:
        status = await self.server.backlog.status()
        busy: dict[str, list[dict[str, Any]]] = {worker: [] for worker in status.workers}
        for slot in status.running:
            job = {"id": slot.id, "job": slot.name, "started_at": stamp(slot.started_at)}
            busy.setdefault(slot.worker, []).append(job)
        self.answer(
            200,
            {
                "states": status.counts,
                "drained_per_second": round(self.server.backlog.drain_rate, 1),
                "oldest_queued_seconds": max(0.0, time.time() - status.oldest) if status.oldest else None,
                "log_bytes": status.log_bytes,
                "producers": [{"worker": worker, "running": jobs} for worker, jobs in busy.items()],
            },
        )


class Health(Handler):
    def get(self) -> None:
        self.answer(200, {"status": "alive"})


class Ready(Handler):
    async def get(self) -> None:
        if self.server.draining:
            raise StoreError("this producer is shutting down")
        await self.server.backlog.ping()
        self.answer(200, {"status": "ready"})


class Nothing(Handler):
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

    def prepare(self) -> None:
        request_id.set(self.request_id)
        raise NotFound(f"there is nothing at {self.request.path}")


def application(server: Server) -> Application:
    return Application(
        [
            (r"/", Root),
            (r"/jobs", Jobs),
            (rf"/jobs/({JOB_ID})", JobById),
            (r"/stats", Stats),
            (r"/healthz", Health),
            (r"/readyz", Ready),
        ],
        default_handler_class=Nothing,
        server=server,
        log_function=_no_access_log,
    )


def _no_access_log(handler: RequestHandler) -> None:
    """nginx writes it, with the same request id."""
