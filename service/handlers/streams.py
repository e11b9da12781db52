"""The requests under way that bring lines: a stop waits for them, though not for ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress

LAST_ANSWER = 1.0  # seconds for an answer before the body's end; less than what a stop leaves beyond the drain time


class Streams:
    def __init__(self) -> None:
        self.over = False  # True: whoever still brings lines is answered now
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> None:
        self._count += 1
        self._none.clear()

    def end(self) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def finish(self, seconds: float) -> None:
        """Wait until all have ended; those that have not within `seconds` are told to."""
        for limit in (seconds, LAST_ANSWER):
            with suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await self._none.wait()
            self.over = True
