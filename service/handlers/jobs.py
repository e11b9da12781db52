"""/jobs: submit, and follow."""

from __future__ import annotations

from typing import Any

import msgspec

from service.errors import NotFound, Removed
from service.handlers.base import Handler
from service.handlers.body import Submission
from service.handlers.intake import Intake
from service.job import Record, State, stamp


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


class Jobs(Intake):
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
