"""Adds what this producer counts to the sums in the store, which all producers of all servers share.

What is told is what is in the store, never more: whichever producer is asked, a sum never falls, also when one of them
is killed; with it goes only what it has counted since it last published.
"""

from __future__ import annotations

import asyncio
import logging

from service.backlog.aio import AsyncBacklog
from service.errors import StoreError
from service.metrics import Metrics

log = logging.getLogger(__name__)

PUBLISH = 5.0  # seconds; so much is not counted when a producer is killed


class Publisher:
    def __init__(self, metrics: Metrics, backlog: AsyncBacklog) -> None:
        self._metrics, self._backlog = metrics, backlog
        self._published: dict[str, int] = {}
        self._alone = asyncio.Lock()  # two at once would add the same twice

    async def publish(self) -> None:
        """Add what has been counted since the last time, if anything has. Where the store refuses, it is added the
        next time. Not to be cancelled: whether it was added would be unknown."""
        async with self._alone:
            # In a thread: a hundred jobs have thousands of samples, which take tens of milliseconds.
            samples = await asyncio.to_thread(self._metrics.samples)
            more = {key: n - self._published.get(key, 0) for key, n in samples.items()}
            more = {key: n for key, n in more.items() if n}
            if not more:
                return
            try:
                await self._backlog.publish(more)
            except StoreError as error:
                return log.warning("what is counted could not be published: %s", error)
            self._published = samples

    async def publish_forever(self) -> None:
        """Cancel it after a last `publish`, which waits for the one that is under way."""
        while True:
            await asyncio.sleep(PUBLISH)
            await self.publish()
