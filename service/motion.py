"""Whether jobs move here: tells a producer that has nothing to do from one that cannot do it."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.job import Claim, Outcome
from service.metrics import Metrics
from service.retry import describe, last_chance

STALLED = 15.0  # seconds; a slot starts in 15 ms, with a heavy module in a few seconds


class Motion:
    def __init__(self, slots: int, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots, self._metrics, self._clock = slots, metrics, clock
        self._waiting: dict[Claim, float] = {}  # claimed, and not begun → when it was claimed
        self._running: dict[Claim, float] = {}  # → when it began
        self._moved = clock()  # when something moved, or nothing had to

    def waits(self, claim: Claim) -> None:
        """It was claimed, and waits for a slot."""
        self._waiting[claim] = self._clock()

    def passed(self) -> None:
        """A job that is not known here was handed back, which is all that can be done with it."""
        if not self._waiting:
            self._moved = self._clock()

    def began(self, claim: Claim) -> None:
        self._moved = self._running[claim] = self._clock()
        self._metrics.started(claim.job.name, claim.waited + self._moved - self._waiting.pop(claim))

    def ended(self, claim: Claim, outcome: Outcome) -> None:
        """Nothing moved where it never began: its slot could not start."""
        began = self._running.pop(claim, None)
        if began is not None:
            self._moved = self._clock()
            seconds = self._moved - began if outcome.seconds is None else outcome.seconds
            self._metrics.ended(claim.job.name, describe(outcome)[0], seconds)

    def settled(self, claim: Claim) -> None:
        """Until now it waits also when it has come back: what cannot start is queued, claimed, and queued again."""
        self._waiting.pop(claim, None)

    @property
    def waiting(self) -> bool:
        """Whether something was claimed here that should have begun."""
        return len(self._waiting) > self._held_back

    @property
    def _held_back(self) -> int:
        """Of those with a last chance only one may run at a time: for as long as it does, the others wait for it."""
        if not any(map(last_chance, self._running)):
            return 0
        return sum(map(last_chance, self._waiting))

    def looked(self, claimable: bool) -> None:
        """`claimable`: whether there was anything to claim. All slots busy with long jobs are no standstill."""
        full = len(self._running) + self._held_back >= self._slots
        if full or not (claimable or self.waiting):
            self._moved = self._clock()

    @property
    def stalled(self) -> bool:
        """Jobs wait and slots are free, and for a while nothing has begun or ended."""
        return self._clock() - self._moved > STALLED
