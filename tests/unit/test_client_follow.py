"""Which jobs are looked at next, against a simulated service: how soon each end is seen, and by how many looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import quantiles

import pytest

from service.client import Job
from service.client.client import PAUSE
from service.client.follow import Follow

CONNECTIONS = 8
TRIP = 0.001  # seconds for a look that is not held, of all connections together


@dataclass
class Service:
    """Jobs start in order on so many slots; each takes `lasts(number)` seconds, and is not started before `runs_at`."""

    many: int
    slots: int
    lasts: Callable[[int], float]
    runs_at: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        free = [0.0] * self.slots
        self.starts: dict[int, float] = {}
        for number in sorted(range(self.many), key=lambda each: (self.runs_at.get(each, 0.0), each)):
            slot = min(range(self.slots), key=free.__getitem__)
            self.starts[number] = max(free[slot], self.runs_at.get(number, 0.0))
            free[slot] = self.starts[number] + self.lasts(number)

    def ends(self, number: int) -> float:
        return self.starts[number] + self.lasts(number)

    def job(self, number: int, now: float) -> Job:
        ended, started = self.ends(number) <= now, self.starts[number] <= now
        state = "succeeded" if ended else "running" if started else "queued"
        run_at = datetime.fromtimestamp(self.runs_at.get(number, 0.0), UTC)
        return Job(id=str(number), state=state, run_at=run_at)


@dataclass
class Seen:
    late: list[float]
    looks: int
    seconds: float

    @property
    def percentile_99(self) -> float:
        return quantiles(self.late, n=100)[98]


def follow(service: Service) -> Seen:
    """As Client.results does, with a simulated clock: a round lasts until each of its looks is answered."""
    it, now, late, looks = Follow(CONNECTIONS), 0.0, [], 0
    it.add(map(str, range(service.many)))
    while it.open:
        began, answers = now, []
        for look in it.round(now, more=False):
            looks += 1
            now += 0.0 if look.wait else TRIP
            at = max(began, min(began + look.wait, service.ends(int(look.id))))
            answers.append((max(at, now), service.job(int(look.id), max(at, now))))
        now = max([began, *(at for at, _ in answers)])
        for at, job in sorted(answers, key=lambda each: each[0]):
            it.note(job, now, now)
            if job.ended:
                late.append(at - service.ends(int(job.id)))
        it.learn()
        now = max(now, began + PAUSE) if it.idle else now
    return Seen(late, looks, now)


def test_jobs_that_have_ended_long_ago_take_one_look_each() -> None:
    seen = follow(Service(5_000, 5_000, lambda number: 0.0))
    assert seen.looks == 5_000


def test_a_flood_that_runs_in_order_takes_few_looks_and_each_end_is_seen_soon() -> None:
    seen = follow(Service(10_000, 40, lambda number: 1.0))
    assert seen.looks < 10 * 10_000
    assert seen.percentile_99 < 1.5
    assert max(seen.late) < 3


def test_a_few_jobs_are_seen_the_moment_they_end() -> None:
    seen = follow(Service(CONNECTIONS, CONNECTIONS, lambda number: 1.0 + number * 7))
    assert max(seen.late) < 0.1
    assert seen.looks < 60


def test_jobs_that_wait_for_an_hour_hide_none_and_are_seldom_looked_at() -> None:
    delayed = dict.fromkeys(range(2_000), 3600.0)
    seen = follow(Service(4_000, 40, lambda number: 0.5, delayed))
    quick = seen.late[:2_000]
    assert quantiles(quick, n=100)[98] < 3
    assert seen.looks / seen.seconds < 100


def test_long_jobs_among_short_ones_hide_none() -> None:
    seen = follow(Service(4_000, 40, lambda number: 600.0 if number < 30 else 0.5))
    assert quantiles(seen.late[:3_900], n=100)[98] < 3
    assert max(seen.late) < 8


def test_jobs_that_end_out_of_order_are_found_too() -> None:
    """Half of a long line has been cancelled at once; its head runs on."""
    seen = follow(Service(2_000, 2_000, lambda number: 0.0 if number >= 1_000 else 300.0))
    assert quantiles(seen.late, n=100)[98] < 60


@pytest.mark.parametrize("many", [1, CONNECTIONS, CONNECTIONS + 1, 100])
def test_each_job_is_seen_to_end_once(many: int) -> None:
    assert len(follow(Service(many, 3, lambda number: 0.1 + number % 3)).late) == many
