"""Jobs that run one after the other in one process: each with its own limit, its own outcome and its own blame.

A round trip for each would cost more than a short job does. The process answers after every job, so we know which one
it is at: that one is blamed when the process dies, and those after it have not begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

from service import runner
from service.job import Claim, Crashed, Outcome, Returned, TimedOut
from service.output import Output
from service.replies import Replies

NOT_BEGUN = Returned("not begun: a job before it in the same slot ended it, or took longer than usual")
PATIENCE = 0.1  # seconds that others wait behind a job that was expected to be short


class Told(Protocol):
    """Who hears of each job, once of its beginning and once of its end."""

    def began(self, claim: Claim) -> None: ...
    def ended(self, claim: Claim, outcome: Outcome) -> None: ...


class Course:
    def __init__(
        self,
        claims: Sequence[Claim],
        told: Told,
        replies: Replies,
        output: Output,
        kill: Callable[[Outcome], None],
    ) -> None:
        """`kill` ends the process, and so the course; the job that it is at comes to the outcome given."""
        self._claims, self._told = list(claims), told
        self._replies, self._output, self._kill = replies, output, kill
        self._place = 0
        self._timer: asyncio.TimerHandle | None = None
        self._unwanted: dict[Claim, Outcome] = {}

    @property
    def _current(self) -> Claim | None:
        return self._claims[self._place] if self._place < len(self._claims) else None

    def begin(self) -> None:
        """The process is at the current job from now on."""
        self._no_timer()
        claim = self._current
        if claim is None:
            return
        self._since = asyncio.get_running_loop().time()
        self._told.began(claim)
        if claim in self._unwanted:
            self._kill(self._unwanted[claim])
        else:
            self._look_in(claim.job.timeout)

    def _no_timer(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _look_in(self, seconds: float) -> None:
        others_wait = self._place + 1 < len(self._claims)
        self._timer = asyncio.get_running_loop().call_later(
            min(seconds, PATIENCE) if others_wait else seconds, self._look
        )

    def _look(self) -> None:
        claim, elapsed = self._claims[self._place], asyncio.get_running_loop().time() - self._since
        if elapsed >= claim.job.timeout:
            return self._kill(TimedOut(claim.job.timeout))
        self._recall()
        if self._current is claim:
            self._look_in(claim.job.timeout - elapsed)

    def _recall(self) -> None:
        """Those behind the current job are not held up by it."""
        self._replies.recall()
        self.readable()
        end = self._place + 1  # whether this one still begins is its process's to say
        behind, self._claims = self._claims[end:], self._claims[:end]
        for claim in behind:
            self._told.ended(claim, NOT_BEGUN)

    def readable(self) -> None:
        """Replies have come, maybe."""
        try:
            for reply in self._replies.read():
                self._end(runner.outcome(reply))
        except ValueError as error:
            self._kill(Crashed(f"what the slot's process sent cannot be read: {error}"))

    def _end(self, outcome: Outcome) -> None:
        claim = self._current
        if claim is None:
            raise ValueError("a reply that belongs to no job")
        self._place += 1
        self._told.ended(claim, replace(outcome, output=self._output.of_one()))
        self.begin()

    def unwanted(self, claim: Claim, because: Outcome) -> None:
        """It is to come to `because`. Its process is killed only when it is at it."""
        self._unwanted[claim] = because
        if claim is self._current:
            self._kill(because)

    def stop(self, outcome: Outcome) -> None:
        """The process is gone, or stopped: what the current job comes to, and those behind it."""
        self._no_timer()
        rest, self._claims = self._claims[self._place :], []
        for place, claim in enumerate(rest):
            came = outcome if place == 0 else NOT_BEGUN
            self._told.ended(claim, replace(came, output=self._output.rest() if place == 0 else ""))
