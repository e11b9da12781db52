"""What is counted is added once, whatever the store does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from service.backlog.aio import AsyncBacklog
from service.backlog.memory import MemoryBacklog
from service.errors import StoreFull
from service.metrics import Metrics
from service.publisher import Publisher

STARTED = '["stormdrain_attempts_started_total",{"job":"noop"}]'
SOON = 10.0  # seconds


class Engine(MemoryBacklog):
    def __init__(self) -> None:
        super().__init__()
        self.full, self.published = False, 0

    def publish(self, samples: Mapping[str, int]) -> None:
        if self.full:
            raise StoreFull("not a byte is left")
        self.published += 1
        super().publish(samples)


def with_publisher(test: Callable[[Engine, Metrics, Publisher], Awaitable[None]]) -> None:
    async def main() -> None:
        engine, metrics = Engine(), Metrics(["noop"])
        backlog = AsyncBacklog(engine, SOON, lambda: None)
        try:
            await test(engine, metrics, Publisher(metrics, backlog))
        finally:
            await backlog.close("w1")

    asyncio.run(main())


def test_only_what_is_new_is_added_and_nothing_is_written_where_nothing_is() -> None:
    async def test(engine: Engine, metrics: Metrics, publisher: Publisher) -> None:
        await publisher.publish()
        assert engine.published == 0
        for total in (1, 2):
            metrics.started("noop", 0.1)
            await publisher.publish()
            await publisher.publish()
            assert engine.samples()[STARTED] == total
        assert engine.published == 2
        assert 0 not in engine.samples().values()

    with_publisher(test)


def test_what_the_store_refused_is_added_the_next_time() -> None:
    async def test(engine: Engine, metrics: Metrics, publisher: Publisher) -> None:
        metrics.started("noop", 0.1)
        engine.full = True
        await publisher.publish()
        assert engine.samples() == {}
        engine.full = False
        metrics.started("noop", 0.1)
        await publisher.publish()
        assert engine.samples()[STARTED] == 2

    with_publisher(test)


def test_two_at_once_add_nothing_twice() -> None:
    async def test(engine: Engine, metrics: Metrics, publisher: Publisher) -> None:
        metrics.started("noop", 0.1)
        await asyncio.gather(*(publisher.publish() for _ in range(5)))
        assert engine.samples()[STARTED] == 1

    with_publisher(test)
