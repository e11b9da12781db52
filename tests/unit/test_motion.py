"""When jobs stand still, and when it only looks so."""

from __future__ import annotations

import pytest

from service.job import Claim, Job, Returned, Succeeded, new_id
from service.metrics import Metrics
from service.motion import STALLED, Motion
from service.retry import CRASHES

SLOTS = 2


class Here:
    """A producer's motion, with a clock of its own and a look every half second."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.metrics = Metrics(["noop"])
        self.motion = Motion(SLOTS, self.metrics, lambda: self.now)
        self.claimable = False

    def claim(self, crashes: int = 0) -> Claim:
        claim = Claim(Job(new_id(), "noop", b"{}", 60.0, 3), 1, 1, crashes, 0, 0.0, waited=3.0)
        self.motion.waits(claim)
        return claim

    def begin(self, crashes: int = 0) -> Claim:
        claim = self.claim(crashes)
        self.motion.began(claim)
        return claim

    def end(self, claim: Claim) -> None:
        self.motion.ended(claim, Succeeded(b"null"))
        self.motion.settled(claim)

    def pass_time(self, seconds: float = 2 * STALLED) -> None:
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            self.motion.looked(self.claimable)

    @property
    def stalled(self) -> bool:
        return self.motion.stalled


@pytest.fixture
def here() -> Here:
    return Here()


def test_who_has_nothing_to_do_is_not_stalled(here: Here) -> None:
    here.pass_time()
    assert not here.stalled


def test_jobs_that_wait_while_slots_are_free_and_nothing_begins_are_a_standstill(here: Here) -> None:
    here.claimable = True
    here.pass_time(STALLED)
    assert not here.stalled
    here.pass_time(1.0)
    assert here.stalled


def test_a_job_that_can_be_claimed_after_a_long_rest_is_no_standstill(here: Here) -> None:
    here.pass_time()
    here.claimable = True
    here.pass_time(0.5)
    assert not here.stalled


def test_slots_that_are_all_busy_with_long_jobs_are_no_standstill(here: Here) -> None:
    here.claimable = True
    for _ in range(SLOTS):
        here.begin()
    here.pass_time()
    assert not here.stalled


def test_one_slot_that_stays_free_beside_a_long_job_is(here: Here) -> None:
    here.claimable = True
    here.begin()
    here.pass_time()
    assert here.stalled


def test_a_job_that_waits_for_a_slot_to_start_for_too_long_is_a_standstill(here: Here) -> None:
    here.claim()
    here.pass_time()
    assert here.stalled


def test_it_ends_with_the_first_job_that_begins(here: Here) -> None:
    claim = here.claim()
    here.pass_time()
    here.motion.began(claim)
    assert not here.stalled
    here.pass_time()
    assert not here.stalled


def test_it_ends_when_nothing_waits_here_any_more(here: Here) -> None:
    claim = here.claim()
    here.pass_time()
    here.motion.ended(claim, Returned("as asked"))
    here.motion.settled(claim)
    here.pass_time(0.5)
    assert not here.stalled


def test_a_job_that_is_handed_back_since_its_slot_cannot_start_has_not_moved(here: Here) -> None:
    for _ in range(30):
        claim = here.claim()
        here.pass_time(1.0)
        here.motion.ended(claim, Returned("as asked"))
        here.motion.settled(claim)
        here.claimable = True  # until it is claimed again
    assert here.stalled
    assert sum(here.metrics.samples().values()) == 0


def test_a_flood_of_jobs_that_are_not_known_here_is_no_standstill(here: Here) -> None:
    here.claimable = True
    for _ in range(60):
        here.motion.passed()
        here.pass_time(0.5)
    assert not here.stalled


def test_but_it_does_not_hide_one(here: Here) -> None:
    here.claimable = True
    here.claim()
    for _ in range(60):
        here.motion.passed()
        here.pass_time(0.5)
    assert here.stalled


def test_those_with_a_last_chance_wait_for_the_one_that_runs(here: Here) -> None:
    last = CRASHES - 1
    running = here.begin(last)
    here.claim(last)
    here.claimable = True
    here.pass_time()
    assert not here.stalled
    here.end(running)
    here.pass_time()
    assert here.stalled


def test_what_was_waited_for_and_how_long_it_ran_is_counted(here: Here) -> None:
    claim = here.claim()
    here.now += 1.0
    here.motion.began(claim)
    here.now += 2.5
    here.end(claim)
    samples = here.metrics.samples()
    assert samples['["stormdrain_wait_seconds_sum",{"job":"noop"}]'] == 4_000_000
    assert samples['["stormdrain_run_seconds_sum",{"job":"noop"}]'] == 2_500_000
    assert samples['["stormdrain_attempts_ended_total",{"job":"noop","outcome":"succeeded"}]'] == 1
