"""Jobs that run one after the other in one process: each with its own limit, its own outcome and its own blame.

A round trip for each would cost more than a short job does. The process answers after every job, so we know which one
it is at: that one is blamed when the process dies, and those after it have not begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Protocol

from msgspec.structs import replace

from service import runner
from service.job import Claim, Crashed, Outcome, Returned, TimedOut
from service.output import Output
from service.replies import Replies, Reply

NOT_BEGUN = Returned("not begun: a job before it in the same slot ended it, or took longer than usual")
NUMBERS = count()
END_TIMEOUT = 1.0  # seconds between the last reply and the word that all is done
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
        self._victim: Claim | None = None  # for whom the process was killed
        self.number = next(NUMBERS)  # what a job left behind may still say is of another course

    @property
    def replied(self) -> int:
        return self._place

    @property
    def _current(self) -> Claim | None:
        return self._claims[self._place] if self._place < len(self._claims) else None

    def begin(self) -> None:
        """The process is at the current job from now on."""
        self._no_timer()
        claim, loop = self._current, asyncio.get_running_loop()
        if claim is None:  # what a job has left behind may keep the process from saying that it is done
            self._timer = loop.call_later(END_TIMEOUT, self._kill, NOT_BEGUN)
            return
        self._since = loop.time()
        self._told.began(claim)
        if claim in self._unwanted:
            self._kill_for(claim, self._unwanted[claim])
        else:
            self._look_in(claim.job.timeout)

    def _kill_for(self, claim: Claim, because: Outcome) -> None:
        """Replies that are on their way may show that the process had gone on: then `because` is nobody's."""
        self._victim = claim
        self._kill(because)

    def _no_timer(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _look_in(self, seconds: float) -> None:
        others_wait = self._place + 1 < len(self._claims)
        self._timer = asyncio.get_running_loop().call_later(
            min(seconds, PATIENCE) if others_wait else seconds, self._look
        )

    def _look(self) -> None:
        claim = self._claims[self._place]
        self.readable()
        if self._current is not claim:
            return
        elapsed = asyncio.get_running_loop().time() - self._since
        if elapsed >= claim.job.timeout:
            return self._kill_for(claim, TimedOut(claim.job.timeout))
        if self._place + 1 < len(self._claims):
            self._recall()
        if self._current is claim:
            self._look_in(claim.job.timeout - elapsed)

    def _recall(self) -> None:
        """Those behind the current job are not held up by it."""
        self._replies.recall(self.number)
        self.readable()
        end = self._place + 1  # whether this one still begins is its process's to say
        behind, self._claims = self._claims[end:], self._claims[:end]
        for claim in behind:
            self._told.ended(claim, NOT_BEGUN)

    def readable(self) -> None:
        """Replies have come, maybe."""
        try:
            for reply in self._replies.read():
                if reply.course == self.number:
                    self._end(reply)
        except ValueError as error:
            self._kill(Crashed(f"what the slot's process sent cannot be read: {error}"))

    def _end(self, reply: Reply) -> None:
        claim = self._current
        if claim is None or reply.place != self._place:
            raise ValueError("a reply of a job that the process is not at")
        self._place += 1
        self._told.ended(claim, replace(runner.outcome(reply), output=self._output.of_one()))
        self.begin()

    def unwanted(self, claim: Claim, because: Outcome) -> None:
        """It is to come to `because`. Its process is killed only when it is at it."""
        self.readable()
        self._unwanted[claim] = because
        if claim is self._current:
            self._kill_for(claim, because)

    def stop(self, outcome: Outcome) -> None:
        """The process is gone, or stopped: what the current job comes to, and those behind it."""
        self._no_timer()
        current, behind = self._current, self._claims[self._place + 1 :]
        if current:
            mine = self._victim in (None, current)
            came = outcome if mine else Returned("its slot was ended for the job before it")
            self._told.ended(current, came if came is NOT_BEGUN else replace(came, output=self._output.rest()))
        for claim in behind:
            self._told.ended(claim, NOT_BEGUN)
        self._claims = []
