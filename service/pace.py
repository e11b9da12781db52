"""Which jobs are so short that several run in one slot one after the other: to claim, hand over and settle each by
itself would take longer than to run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

SHORT = 0.005  # seconds; what takes longer has a slot to itself
COURSE = 0.025  # seconds that what runs in a slot together is expected to take
TOGETHER = 64  # jobs
UNKNOWN = 1.0  # seconds, of a function that has not run here; also the most that one run counts
WEIGHT = 0.1  # of the last run; the first one is forgotten after fifty


class Pace:
    """How long functions take here: the mean, of which the last runs make most."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}  # seconds

    def ran(self, name: str, seconds: float | None) -> None:
        """None: it came to no end of its own."""
        took = UNKNOWN if seconds is None else min(seconds, UNKNOWN)
        mean = self._means.get(name, UNKNOWN)
        self._means[name] = mean + WEIGHT * (took - mean)

    def packs(self) -> dict[str, int]:
        """How many jobs of a function go into one slot together, where that is more than one."""
        return {
            name: min(TOGETHER, int(COURSE / max(mean, COURSE / TOGETHER)))
            for name, mean in self._means.items()
            if mean <= SHORT
        }


def pack(name: str, crashes: int, losses: int, packs: Mapping[str, int]) -> int:
    """How many like this one go into a slot together. What has been there at a crash runs alone."""
    return 1 if crashes or losses else packs.get(name, 1)


def courses(packs: Sequence[int]) -> Iterator[slice]:
    """Jobs in order, divided: each takes the share 1/pack of a slot, and none is full to more than the whole."""
    start, room = 0, 0.0
    for place, pack in enumerate(packs):
        share = 1 / pack
        if share > room + 1e-9:
            if place > start:
                yield slice(start, place)
            start, room = place, 1.0
        room -= share
    if len(packs) > start:
        yield slice(start, len(packs))


def fitting(packs: Sequence[int], slots: int) -> int:
    """How many of these jobs, from the first, so many slots can take."""
    parts = list(courses(packs))
    return parts[slots - 1].stop if len(parts) >= slots > 0 else len(packs) if slots > 0 else 0


def spread(packs: Sequence[int], slots: int) -> list[slice]:
    """`courses` for up to so many slots: evenly, where there are enough of them."""
    even = -(-len(packs) // slots)
    parts = list(courses([min(pack, even) for pack in packs]))
    return parts if len(parts) <= slots else list(courses(packs))
