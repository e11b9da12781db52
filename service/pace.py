"""Which jobs are so short that several run in one slot one after the other: to claim, hand over and settle each by
itself would take longer than to run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

SHORT = 0.005  # seconds; what takes longer has a slot to itself
COURSE = 0.025  # seconds that what runs in a slot together is expected to take
COURSE_BYTES = 1 << 20  # of results that are expected of it: they are in the producer's memory until they are on disk
TOGETHER = 64  # jobs
UNKNOWN = 1.0  # seconds, of a function that has not run here; also the most that one run counts
WEIGHT = 0.1  # of the last run; the first one is forgotten after fifty


class Pace:
    """What functions take here: the means, of which the last runs make most."""

    def __init__(self) -> None:
        self._means: dict[str, tuple[float, float]] = {}  # seconds, bytes

    def ran(self, name: str, seconds: float | None, size: int) -> None:
        """None: it came to no end of its own. `size` is of its result, in bytes."""
        took = UNKNOWN if seconds is None else min(seconds, UNKNOWN)
        mean, mean_size = self._means.get(name, (UNKNOWN, 0.0))
        self._means[name] = mean + WEIGHT * (took - mean), mean_size + WEIGHT * (size - mean_size)

    def packs(self) -> dict[str, int]:
        """How many jobs of a function go into one slot together, where that is more than one."""
        packs = {
            name: min(TOGETHER, int(COURSE / max(seconds, 1e-9)), int(COURSE_BYTES / max(size, 1.0)))
            for name, (seconds, size) in self._means.items()
            if seconds <= SHORT
        }
        return {name: pack for name, pack in packs.items() if pack > 1}


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
    ends: list[int] = [0, *(part.stop for part in courses(packs))]
    return ends[min(slots, len(ends) - 1)]


def spread(packs: Sequence[int], slots: int) -> list[slice]:
    """`courses` for up to so many slots: evenly, where there are enough of them."""
    even = -(-len(packs) // slots)
    parts = list(courses([min(pack, even) for pack in packs]))
    return parts if len(parts) <= slots else list(courses(packs))
