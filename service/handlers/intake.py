"""A request becomes a job on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
from tornado.httputil import HTTPHeaders

from service import callbacks, registry
from service.config import Config
from service.errors import KeyReused
from service.handlers import answers
from service.handlers.base import Handler, Server
from service.handlers.body import Submission, fingerprint, idempotency_key
from service.job import Job, Receipt, new_id, stamp
from service.log import tell


def job_of(submission: Submission, config: Config, key: str | None = None) -> Job:
    """Raises UnknownJob, BadArguments."""
    function = registry.find(submission.job)
    function.check(submission.args)
    if submission.callback is not None:
        callbacks.check(submission.callback, config)
    now = time.time()
    return Job(
        new_id(),
        submission.job,
        msgspec.json.encode(submission.args),
        submission.timeout or function.timeout,
        submission.attempts or function.attempts,
        submission.priority,
        submission.waits(now),
        submission.expires(now),
        submission.callback,
        key,
        fingerprint(submission) if key else b"",
    )


def key_of(headers: HTTPHeaders, client: str) -> str | None:
    """The idempotency key. Each API client has its own: one's order-17 is not another's. Raises Malformed."""
    key = idempotency_key(headers.get("Idempotency-Key"))
    return f"{client} {key}" if key and client else key


async def put(server: Server, job: Job, since: float) -> Receipt:
    """Store a job of a request that began at `since`, seconds since the epoch; it is on disk when this returns. Raises
    KeyReused, StoreError."""
    receipt = await server.backlog.put(job)
    if not receipt.same:
        raise KeyReused("this Idempotency-Key was used for another request: take a new one for each job")
    if receipt.new:
        server.metrics.accepted(time.time() - since)
        if not job.delay:
            server.consumer.wake()
        tell(f"job add:{job.label}")
    return receipt


def receipt_headers(receipt: Receipt) -> Iterator[tuple[str, str]]:
    yield "Location", f"/jobs/{receipt.id}"
    if not receipt.new:
        yield "Idempotency-Replayed", "true"


def receipt_of(server: Server, submission: Submission, receipt: Receipt) -> answers.Receipt:
    """The body of a 202."""
    return answers.Receipt(
        id=receipt.id,
        job=submission.job,
        state=receipt.state,
        durability=server.backlog.durability,
        position=receipt.position,
        estimated_start=estimated_start(server, submission, receipt),
    )


def estimated_start(server: Server, submission: Submission, receipt: Receipt) -> str | None:
    """By the pace of the last seconds; None where nothing says anything of it."""
    now = time.time()
    wait = seconds_before(server, submission.waits(now), receipt)
    expires = submission.expires(now)
    return None if wait is None or (expires is not None and wait >= expires) else stamp(now + wait)


def seconds_before(server: Server, delay: float, receipt: Receipt) -> float | None:
    """Its start, about."""
    if not receipt.new:
        return None
    if receipt.position is None:
        return delay
    if receipt.position <= server.consumer.free:
        return 0.0
    rate = server.backlog.drain_rate
    return receipt.position / rate if rate else None


class Intake(Handler):
    async def accept(self, submission: Submission) -> Receipt:
        """Store a job; it is on disk when this returns. Raises Refused, StoreError."""
        job = job_of(submission, self.server.config, key_of(self.request.headers, self.client))
        receipt = await put(self.server, job, time.time() - self.request.request_time())
        for name, value in receipt_headers(receipt):
            self.set_header(name, value)
        return receipt
