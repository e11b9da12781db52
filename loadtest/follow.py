"""Every accepted job to its end, or to the list of what is LOST."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from .answer import MISSING, REMOVED, Sighting
from .progress import Progress

ENDS = ("succeeded", "failed", "cancelled", "expired")
PAUSE = 0.2  # seconds after a round in which nothing ended: looking must not slow the jobs it waits for
STUCK = 1.0  # seconds without an end among the oldest, after which we look further on too
SMALLEST, LARGEST = 10, 500  # look-ups a round: more while all have ended, fewer while most have not

LookUp = Callable[[list[str]], Iterator[Sighting]]


class Lost(NamedTuple):
    id: str
    why: str


class Follow:
    """The accepted jobs: those still open with what was last seen of each, and how the others ended."""

    def __init__(self, look_up: LookUp, ids: list[str], patience: float) -> None:
        self.look_up, self.patience = look_up, patience
        self.open = {id: Sighting(id, "never") for id in ids}
        twice = (Counter(ids) - Counter(self.open.keys())).elements()
        self.lost = [Lost(id, "its id was given to two jobs") for id in twice]
        self.ends: Counter[str] = Counter()
        self.unfinished: Counter[str] = Counter()
        self.window = SMALLEST
        self.place = 0

    def to_the_end(self, bar: Progress) -> None:
        bar.advance(len(self.lost))
        head_moved = last_end = time.monotonic()
        while self.open:
            now = time.monotonic()
            if ended := self.oldest():
                head_moved = now
            elif now - head_moved > STUCK:
                ended = self.elsewhere()
            if not ended and now - last_end > self.patience:
                ended = self.everything()
                if not ended:
                    return self.give_up()
            bar.advance(ended)
            if ended:
                last_end = time.monotonic()
            else:
                time.sleep(PAUSE)

    def oldest(self) -> int:
        """Jobs end roughly in the order of acceptance, so the oldest tell most."""
        ids = list(islice(self.open, self.window))
        ended = self.look(ids)
        if ended == len(ids):
            self.window = min(2 * self.window, LARGEST)
        elif 2 * ended < len(ids):
            self.window = max(self.window // 2, SMALLEST)
        return ended

    def elsewhere(self) -> int:
        """A few others in turn: jobs that wait for a retry would else hide all that end behind them."""
        if self.place >= len(self.open):
            self.place = 0
        ids = list(islice(self.open, self.place, self.place + self.window))
        ended = self.look(ids)
        self.place += len(ids) - ended
        return ended

    def everything(self) -> int:
        """All of them once more before any is called LOST; cut short when no one answers at all."""
        ended, ids = 0, list(self.open)
        for first in range(0, len(ids), LARGEST):
            part = ids[first : first + LARGEST]
            ended += self.look(part)
            if all(self.open[id].problem for id in part if id in self.open):
                break
        return ended

    def look(self, ids: list[str]) -> int:
        """How many of these have ended since."""
        before = len(self.open)
        for sighting in self.look_up(ids):
            self.note(sighting)
        return before - len(self.open)

    def note(self, seen: Sighting) -> None:
        last = self.open[seen.id]
        if seen.state in ENDS or seen.state == REMOVED:
            self.ends[seen.state] += 1
            del self.open[seen.id]
        elif seen.state == MISSING:
            self.lost.append(Lost(seen.id, f"404, last seen: {last.state}"))
            del self.open[seen.id]
        else:  # assigned in place: the order of acceptance stays
            self.open[seen.id] = Sighting(seen.id, seen.state or last.state, seen.problem)

    def give_up(self) -> None:
        """A job that the service still shows is not lost: it waits behind others, or for a retry."""
        for id, state, problem in self.open.values():
            if problem or state == "never":
                self.lost.append(
                    Lost(id, f"no end seen, last seen: {state}" + (f", then {problem}" if problem else ""))
                )
            else:
                self.unfinished[state] += 1
        self.open.clear()
