"""GET /metrics: the sums of all producers, and how the backlog stands, as Prometheus reads them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from itertools import chain

from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from service import registry
from service.census import counters, gauges
from service.handlers.base import Handler


class Families(Collector):
    """What generate_latest wants to be given."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Metrics(Handler):
    async def get(self) -> None:
        server, backlog = self.server, self.server.backlog
        await server.publisher.publish()
        sums, tally, status = await backlog.samples(), await backlog.tally(), await backlog.status()
        families = chain(
            gauges(status, backlog.drain_rate, time.time()),
            counters(tally, registry.names()),
            server.metrics.families(sums),
        )
        text = await asyncio.to_thread(generate_latest, Families(families))
        self.set_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
        self.finish(text)
