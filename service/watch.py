"""Who waits for a job to change: answered when it has, whichever producer, of whichever server, has changed it.

One look at the store serves all who wait here; there is none while nobody does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from service.backlog.aio import AsyncBacklog
from service.errors import StoreError

log = logging.getLogger(__name__)

LOOK = 0.02  # seconds; a look costs two tenths of a millisecond, and as much is added to what is waited for
LOOK_AGAIN = 0.5  # seconds, when the store did not answer
WATCHERS_MAX = 1000  # a look asks for the version of each job


class Watch:
    def __init__(self, backlog: AsyncBacklog) -> None:
        self._backlog = backlog
        self._watched: Counter[str] = Counter()
        self._versions: dict[str, int | None] = {}  # as last seen; None: not here any more
        self._looked = asyncio.Event()  # replaced with every look
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def full(self) -> bool:
        return self._closed or self._watched.total() >= WATCHERS_MAX

    async def change(self, id: str, version: int, timeout: float) -> bool:
        """True as soon as the job has another version than this, or is gone; False when the time is up, or this
        producer is about to end."""
        self._watched[id] += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_forever())
        try:
            async with asyncio.timeout(timeout):
                while not self._closed and not self._newer(id, version):
                    await self._looked.wait()
        except TimeoutError:
            return False
        finally:
            self._forget(id)
        return not self._closed

    def _newer(self, id: str, version: int) -> bool:
        seen = self._versions.get(id, version)
        return seen is None or seen > version

    def _forget(self, id: str) -> None:
        self._watched[id] -= 1
        if not self._watched[id]:
            del self._watched[id]
            self._versions.pop(id, None)

    async def _look_forever(self) -> None:
        while self._watched and not self._closed:
            await asyncio.sleep(LOOK)
            await self._look()

    async def _look(self) -> None:
        ids = list(self._watched)
        try:
            found = await self._backlog.versions(ids)
        except StoreError as error:
            log.warning("the backlog does not answer: %s", error)
            return await asyncio.sleep(LOOK_AGAIN)
        seen = {id: found.get(id) for id in ids if id in self._watched}
        if any(self._versions.get(id, -1) != version for id, version in seen.items()):
            self._versions |= seen
            self._tell()

    def _tell(self) -> None:
        self._looked.set()
        self._looked = asyncio.Event()

    def close(self) -> None:
        """Let everybody go who waits: this producer is about to end."""
        self._closed = True
        self._tell()
