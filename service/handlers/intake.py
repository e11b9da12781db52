"""A request becomes a job on disk."""

from __future__ import annotations

import logging
import time

import msgspec

from service import callbacks, registry
from service.config import Config
from service.errors import KeyReused
from service.handlers import answers
from service.handlers.base import Handler
from service.handlers.body import Submission, fingerprint, idempotency_key
from service.job import Job, Receipt, new_id, stamp

log = logging.getLogger(__name__)


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


class Intake(Handler):
    async def accept(self, submission: Submission) -> Receipt:
        """Store a job; it is on disk when this returns. Raises Refused, StoreError."""
        job = job_of(submission, self.server.config, self._key())
        receipt = await self.server.backlog.put(job)
        if not receipt.same:
            raise KeyReused("this Idempotency-Key was used for another request: take a new one for each job")
        self.set_header("Location", f"/jobs/{receipt.id}")
        if receipt.new:
            self.server.metrics.accepted(self.request.request_time())
            if not job.delay:
                self.server.consumer.wake()
            log.info("job add:%s", job.label)
        else:
            self.set_header("Idempotency-Replayed", "true")
        return receipt

    def _key(self) -> str | None:
        """Each client has its own keys: one's order-17 is not another's. Raises Malformed."""
        key = idempotency_key(self.request.headers.get("Idempotency-Key"))
        return f"{self.client} {key}" if key and self.client else key

    def receipt(self, submission: Submission, receipt: Receipt) -> answers.Receipt:
        """The body of a 202."""
        return answers.Receipt(
            id=receipt.id,
            job=submission.job,
            state=receipt.state,
            durability=self.server.backlog.durability,
            position=receipt.position,
            estimated_start=self.estimated_start(submission, receipt),
        )

    def estimated_start(self, submission: Submission, receipt: Receipt) -> str | None:
        """By the pace of the last seconds; None where nothing says anything of it."""
        now = time.time()
        wait = self._wait(submission.waits(now), receipt)
        expires = submission.expires(now)
        return None if wait is None or (expires is not None and wait >= expires) else stamp(now + wait)

    def _wait(self, delay: float, receipt: Receipt) -> float | None:
        """Seconds before it is started, about."""
        if not receipt.new:
            return None
        if receipt.position is None:
            return delay
        if receipt.position <= self.server.consumer.free:
            return 0.0
        rate = self.server.backlog.drain_rate
        return receipt.position / rate if rate else None
