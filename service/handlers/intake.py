"""A request becomes a job on disk."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import msgspec

from service import registry
from service.errors import KeyReused
from service.handlers.base import Handler
from service.handlers.body import fingerprint, idempotency_key
from service.job import Job, new_id

log = logging.getLogger(__name__)


class Intake(Handler):
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
