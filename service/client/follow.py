"""Which of many open jobs to look at next: pure, so that each end is seen soon and with few looks.

Jobs start roughly in the order in which they were accepted. So they stand in a line, and its head is looked at: where
that has not started, what is behind it has hardly either. Who is seen running, or waits for a moment to come, leaves
the line and is looked at again later. A few from elsewhere in it are looked at too: priorities and cancelled jobs do
not keep the order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from service.client.documents import Job

LONG, SHORT = 10, 1  # seconds that the server may hold a look: where each open job has a connection, and else
SMALLEST, LARGEST = 10, 100  # looks a round, of each kind; the answers of a round are in memory at once
SOONEST, LATEST = 0.25, 5.0  # seconds before a running job is looked at again
LATEST_WAITING = 60.0  # the same for one that waits for its moment: it may be cancelled before


class Look(NamedTuple):
    id: str
    wait: int  # seconds


class Window:
    """How many to look at: more while all of them have moved on, fewer while most have not."""

    def __init__(self) -> None:
        self.size = SMALLEST
        self.ids: list[str] = []

    def over(self, line: Iterable[str], start: int = 0) -> list[str]:
        self.ids = list(islice(line, start, start + self.size))
        return self.ids

    def learn(self, line: dict[str, None]) -> int:
        """How many have left the line since."""
        moved = sum(id not in line for id in self.ids)
        if self.ids and moved == len(self.ids):
            self.size = min(2 * self.size, LARGEST)
        elif 2 * moved < len(self.ids):
            self.size = max(self.size // 2, SMALLEST)
        return moved


class Follow:
    """Times are monotonic seconds, except where a clock is named."""

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self.open: dict[str, None] = {}
        self._line: dict[str, None] = {}  # of these, who was seen queued at most, in the order of acceptance
        self._later: list[tuple[float, str]] = []  # and the others, a heap: when to look again
        self._running: dict[str, float] = {}  # since when, as first seen
        self._head, self._elsewhere, self._place = Window(), Window(), 0
        self._before = 0
        self.idle = False  # the last round has shown nothing new

    def add(self, ids: Iterable[str]) -> None:
        new = dict.fromkeys(id for id in ids if id not in self.open)
        self.open |= new
        self._line |= new

    def round(self, now: float, more: bool) -> list[Look]:
        """The next looks: `note` each, then `learn`. `more`: other jobs are to come, so none of these is held."""
        self._before = len(self.open)
        if len(self.open) <= self._connections and not more:
            self._later.clear()
            return [Look(id, LONG) for id in self.open]
        held = self._connections if self.idle and not more else 0
        if self._place >= len(self._line):
            self._place = 0
        ids = self._due(now, held) + self._head.over(self._line) + self._elsewhere.over(self._line, self._place)
        return [Look(id, SHORT if n < held else 0) for n, id in enumerate(dict.fromkeys(ids))]

    def _due(self, now: float, least: int) -> list[str]:
        """Who is to be looked at again by now, but no fewer than `least`, where there are so many."""
        due: list[str] = []
        while self._later and len(due) < LARGEST and (self._later[0][0] <= now or len(due) < least):
            due.append(heapq.heappop(self._later)[1])
        return due

    def note(self, job: Job, now: float, clock: float) -> None:
        """What a look has shown. `clock` is seconds since the epoch, as run_at is."""
        if job.state != "running":
            self._running.pop(job.id, None)
        if job.ended:
            self._line.pop(job.id, None)
            del self.open[job.id]
        elif again := self._again(job, now, clock):
            self._line.pop(job.id, None)
            heapq.heappush(self._later, (now + again, job.id))

    def _again(self, job: Job, now: float, clock: float) -> float:
        """Seconds until the next look; 0: it stays in the line."""
        if job.state == "running":
            return min(max((now - self._running.setdefault(job.id, now)) / 2, SOONEST), LATEST)
        waits = job.run_at.timestamp() - clock if job.run_at else 0.0
        if waits > 0:
            return min(waits, LATEST_WAITING)
        return 0.0 if job.id in self._line else SOONEST

    def learn(self) -> None:
        moved = self._head.learn(self._line)
        self._place += len(self._elsewhere.ids) - self._elsewhere.learn(self._line)
        self.idle = len(self.open) == self._before and 2 * moved < max(len(self._head.ids), 1)
