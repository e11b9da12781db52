"""For who operates: what runs, whether it is alive, whether it is ready."""

from __future__ import annotations

import logging
import time

from service.errors import Draining, NotFound, NotReady, Stalled, StoreError
from service.handlers.answers import Busy, Producer, Statistics, Status
from service.handlers.base import ANY, Handler
from service.job import stamp
from service.motion import STALLED

log = logging.getLogger(__name__)


class Stats(Handler):
    async def get(self) -> None:
        status = await self.server.backlog.status()
        busy: dict[str, list[Busy]] = {worker: [] for worker in status.workers}
        for slot in status.running:
            busy.setdefault(slot.worker, []).append(Busy(slot.id, slot.name, stamp(slot.started_at)))
        statistics = Statistics(
            states=status.counts,
            drained_per_second=round(self.server.backlog.drain_rate, 1),
            oldest_queued_seconds=max(0.0, time.time() - status.oldest) if status.oldest else None,
            log_bytes=status.log_bytes,
            producers=[Producer(worker, jobs) for worker, jobs in busy.items()],
        )
        self.answer(200, statistics)


class Health(Handler):
    open = True

    def get(self) -> None:
        self.answer(200, Status("alive"))


class Ready(Handler):
    open = True

    async def get(self) -> None:
        try:
            await self._check()
        except (NotReady, StoreError) as error:
            log.warning("not ready: %s", error)
            return self.problem(503, error.slug, error.title, error.detail, error.members)
        self.answer(200, Status("ready"))

    async def _check(self) -> None:
        """Room is asked for last: who starts servers wants to know whether that is all that is amiss."""
        if self.server.draining:
            raise Draining("what runs is finished; nothing new is begun")
        full = await self.server.backlog.refusal()
        if self.server.consumer.stalled:
            raise Stalled(f"jobs wait and slots are free, and for {STALLED:g} s nothing has begun or ended here")
        if full:
            raise full

    def count(self, slug: str) -> None:
        """No request was refused."""


class Nothing(Handler):
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    scopes = dict.fromkeys(methods, ANY)

    def prepare(self) -> None:
        super().prepare()
        raise NotFound(f"there is nothing at {self.request.path}")
