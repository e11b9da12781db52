"""What a client may ask of a job: when, how urgently, until when; its end, and another chance."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.backlog.base import AGEING, BITE, SCAN, Backlog, Bounds
from service.backlog.sqlite import CLAIM_BYTES, LOOK
from service.errors import BacklogFull
from service.job import Receipt, State, new_id
from tests.contract.test_backlog import (
    ENDS,
    ENGINES,
    LEASE,
    Clocks,
    a_job,
    claim_one,
    history,
    open_sqlite,
    put_one,
    seen,
    settlement,
)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture(params=ENGINES)
def backlog(request: pytest.FixtureRequest, tmp_path: Path, clocks: Clocks) -> Iterator[Backlog]:
    opened = ENGINES[request.param](tmp_path, clocks)
    yield opened
    opened.close()


def end_badly(backlog: Backlog, state: State = State.FAILED) -> str:
    """The id of a job that has ended so."""
    job = put_one(backlog)
    backlog.settle([settlement(claim_one(backlog), state, error=b'{"type":"E","message":"no"}')])
    return job.id


# not before


def test_a_delayed_job_is_claimed_when_its_time_has_come_and_not_before(backlog: Backlog, clocks: Clocks) -> None:
    job = replace(a_job(), delay=10.0)
    (receipt,) = backlog.put([job])
    assert receipt == Receipt(job.id, position=None)
    assert seen(backlog, job.id).run_at == clocks.wall + 10
    assert backlog.oldest() is None
    clocks.pass_time(9.9)
    assert (backlog.sweep("s"), backlog.claim(1, "w")) == (0, [])
    clocks.pass_time(0.2)
    assert backlog.sweep("s") == 1
    assert claim_one(backlog).job.id == job.id


def test_a_delayed_job_takes_the_place_of_its_time_not_of_its_put(backlog: Backlog, clocks: Clocks) -> None:
    delayed = replace(a_job(), delay=10.0)
    backlog.put([delayed])
    clocks.pass_time(5)
    before = put_one(backlog)
    clocks.pass_time(6)
    after = put_one(backlog)
    backlog.sweep("s")
    assert [claim.job.id for claim in backlog.claim(3, "w")] == [before.id, delayed.id, after.id]


@pytest.mark.parametrize("boot_clock", [5.0, 50_000.0])
def test_after_a_reboot_a_schedule_holds_and_a_retry_is_due(
    tmp_path: Path, clocks: Clocks, boot_clock: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.linux.boot_id", lambda: "one")
    backlog = open_sqlite(tmp_path, clocks)
    retry = put_one(backlog)
    backlog.settle([settlement(claim_one(backlog), State.QUEUED, delay=1000.0)])
    scheduled, expiring = replace(a_job(), delay=100.0), replace(a_job(), delay=100.0, expires_in=150.0)
    backlog.put([scheduled, expiring])
    backlog.close()

    clocks.wall += 60
    clocks.boot = boot_clock
    monkeypatch.setattr("service.linux.boot_id", lambda: "two")
    backlog = open_sqlite(tmp_path, clocks)
    assert [claim.job.id for claim in backlog.claim(3, "w")] == [retry.id]
    clocks.pass_time(39)
    assert backlog.sweep("s") == 0
    clocks.pass_time(2)
    assert backlog.sweep("s") == 2
    clocks.pass_time(50)
    backlog.expire()
    assert seen(backlog, expiring.id).state == State.EXPIRED
    assert claim_one(backlog).job.id == scheduled.id
    backlog.close()


# priority


def test_a_step_of_priority_is_worth_its_time_and_no_more(backlog: Backlog, clocks: Clocks) -> None:
    old = put_one(backlog)
    clocks.pass_time(AGEING - 1)
    sooner = put_one(backlog, priority=1)
    clocks.pass_time(2)
    later = put_one(backlog, priority=1)
    assert [claim.job.id for claim in backlog.claim(3, "w")] == [sooner.id, old.id, later.id]


def test_the_lowest_priority_is_not_starved_by_a_flood_of_the_highest(backlog: Backlog, clocks: Clocks) -> None:
    lowest = put_one(backlog, priority=-100)
    clocks.pass_time(200 * AGEING + 1)
    put_one(backlog, priority=100)
    assert claim_one(backlog).job.id == lowest.id


def test_a_position_is_how_many_start_before_at_most(backlog: Backlog, clocks: Clocks) -> None:
    receipts = backlog.put([a_job(), a_job(), a_job(priority=5), a_job(priority=9), a_job(priority=-5)])
    assert [receipt.position for receipt in receipts if isinstance(receipt, Receipt)] == [1, 2, 1, 1, 5]


def test_what_waits_for_its_time_is_not_counted_in_a_position(backlog: Backlog) -> None:
    receipts = backlog.put([replace(a_job(), delay=60.0), a_job(), replace(a_job(), delay=60.0), a_job()])
    receipts += backlog.put([a_job(), a_job(priority=1)])
    assert [receipt.position for receipt in receipts if isinstance(receipt, Receipt)] == [None, 1, None, 2, 3, 1]


# not after


def test_what_is_not_started_by_its_deadline_expires_and_never_runs(backlog: Backlog, clocks: Clocks) -> None:
    job = replace(a_job(), expires_in=10.0)
    backlog.put([job])
    assert seen(backlog, job.id).expires_at == clocks.wall + 10
    clocks.pass_time(10.1)
    assert backlog.claim(1, "w") == []  # also where nobody has swept yet
    assert not backlog.expire()
    record = seen(backlog, job.id)
    assert (record.state, record.finished_at, record.attempt) == (State.EXPIRED, clocks.wall, 0)
    (entry,) = history(backlog, job.id)
    assert (entry["outcome"], entry["state"], entry["version"]) == ("expired", "expired", record.version)
    assert backlog.counts()[State.EXPIRED] == 1


def test_what_was_started_in_time_does_not_expire_when_it_comes_back(backlog: Backlog, clocks: Clocks) -> None:
    backlog.put([replace(a_job(), expires_in=10.0)])
    claim = claim_one(backlog)
    clocks.pass_time(11)
    backlog.settle([settlement(claim, State.QUEUED)])
    backlog.expire()
    assert claim_one(backlog).attempt == 2


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
def test_a_step_of_the_wall_clock_moves_no_deadline_and_no_schedule(
    backlog: Backlog, clocks: Clocks, step: float
) -> None:
    backlog.put([replace(a_job(), expires_in=10.0), replace(a_job(), delay=10.0)])
    clocks.wall += step
    backlog.expire()
    assert backlog.sweep("s") == 0
    assert backlog.counts()[State.QUEUED] == 2
    clocks.boot += 11
    backlog.expire()
    assert backlog.sweep("s") == 1
    assert backlog.counts()[State.EXPIRED] == 1


def test_many_expire_in_bites(tmp_path: Path, clocks: Clocks) -> None:
    backlog = open_sqlite(tmp_path, clocks)
    backlog.put([replace(a_job(), expires_in=1.0) for _ in range(2 * BITE)])
    clocks.pass_time(2)
    assert [backlog.expire() for _ in range(3)] == [True, True, False]
    assert backlog.counts()[State.EXPIRED] == 2 * BITE
    backlog.close()


def test_a_claim_looks_at_no_more_than_so_many_that_have_expired(tmp_path: Path, clocks: Clocks) -> None:
    backlog = open_sqlite(tmp_path, clocks)
    backlog.put([replace(a_job(), expires_in=1.0) for _ in range(LOOK + BITE)])
    live = put_one(backlog)
    clocks.pass_time(2)
    assert backlog.claim(1, "w") == []
    assert backlog.expire()
    assert [claim.job.id for claim in backlog.claim(1, "w")] == [live.id]
    backlog.close()


def test_a_claim_of_many_short_jobs_with_large_arguments_takes_no_more_than_so_many_bytes(
    tmp_path: Path, clocks: Clocks
) -> None:
    backlog = open_sqlite(tmp_path, clocks)
    large = b'{"text":"%b"}' % (b"x" * (CLAIM_BYTES // 8))
    backlog.put([replace(a_job(), args=large) for _ in range(40)])
    packs = {a_job().name: 64}
    assert 2 <= len(backlog.claim(1, "w", packs)) <= 8
    assert len(backlog.claim(20, "w", packs)) == 20  # one for each slot there always is
    backlog.close()


# cancel


def test_a_queued_job_is_cancelled_at_once(backlog: Backlog, clocks: Clocks) -> None:
    job = put_one(backlog)
    assert backlog.cancel(job.id) == State.QUEUED
    record = seen(backlog, job.id)
    assert (record.state, record.finished_at) == (State.CANCELLED, clocks.wall)
    assert history(backlog, job.id)[0]["outcome"] == "cancelled"
    assert backlog.claim(1, "w") == []
    assert backlog.cancel(job.id) == State.CANCELLED


def test_a_running_job_is_shown_to_its_worker_only(backlog: Backlog) -> None:
    put_one(backlog)
    backlog.extend("w1", LEASE)
    claim = claim_one(backlog, "w1")
    assert backlog.cancelling("w1") == []
    assert backlog.cancel(claim.job.id) == State.RUNNING
    assert backlog.cancelling("w1") == [(claim.job.id, claim.token)]
    assert backlog.cancelling("w2") == []
    assert backlog.settle([settlement(claim, State.CANCELLED)]) == [True]
    assert backlog.cancelling("w1") == []


def test_what_ends_before_it_is_killed_has_ended(backlog: Backlog) -> None:
    job = put_one(backlog)
    claim = claim_one(backlog)
    backlog.cancel(job.id)
    assert backlog.settle([settlement(claim, result=b"1")]) == [True]
    assert seen(backlog, job.id).state == State.SUCCEEDED


def test_a_job_that_somebody_wants_ended_is_not_run_again(backlog: Backlog) -> None:
    job = put_one(backlog)
    claim = claim_one(backlog)
    backlog.cancel(job.id)
    assert backlog.settle([settlement(claim, State.QUEUED, delay=5.0)]) == [True]
    assert seen(backlog, job.id).state == State.CANCELLED
    assert backlog.counts() == {state: 0 for state in State} | {State.CANCELLED: 1}


def test_a_job_that_somebody_wants_ended_is_not_run_again_when_its_worker_dies(backlog: Backlog) -> None:
    job, other = put_one(backlog), put_one(backlog)
    backlog.extend("w1", LEASE)
    backlog.claim(2, "w1")
    backlog.cancel(job.id)
    backlog.leave("w1")
    assert seen(backlog, job.id).state == State.CANCELLED
    assert claim_one(backlog).job.id == other.id


@pytest.mark.parametrize("state", ENDS)
def test_what_has_ended_is_not_cancelled(backlog: Backlog, state: State) -> None:
    id = end_badly(backlog, state)
    assert backlog.cancel(id) == state
    assert seen(backlog, id).state == state


def test_nothing_is_asked_of_an_unknown_job(backlog: Backlog) -> None:
    assert (backlog.cancel(new_id()), backlog.requeue(new_id())) == (None, None)


# another chance


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.EXPIRED])
def test_a_job_that_ended_badly_gets_all_its_attempts_again(backlog: Backlog, clocks: Clocks, state: State) -> None:
    id = end_badly(backlog, state)
    assert backlog.requeue(id) == state
    record = seen(backlog, id)
    assert (record.state, record.attempt, record.error, record.finished_at) == (State.QUEUED, 0, None, None)
    assert history(backlog, id)[-1]["outcome"] == "requeued"
    claim = claim_one(backlog)
    assert (claim.job.id, claim.attempt, claim.crashes, claim.losses) == (id, 1, 0, 0)


def test_what_has_succeeded_or_has_not_ended_is_not_queued_again(backlog: Backlog) -> None:
    ended = end_badly(backlog, State.SUCCEEDED)
    running, queued = put_one(backlog), put_one(backlog)
    claim_one(backlog)
    found = [backlog.requeue(id) for id in (ended, running.id, queued.id)]
    assert found == [State.SUCCEEDED, State.RUNNING, State.QUEUED]
    assert backlog.counts()[State.QUEUED] == 1


def test_a_full_backlog_takes_nothing_back(tmp_path: Path, clocks: Clocks) -> None:
    for open_ in ENGINES.values():
        backlog = open_(tmp_path, clocks, Bounds(backlog_max=1))
        id = end_badly(backlog)
        put_one(backlog)
        assert isinstance(backlog.requeue(id), BacklogFull)
        assert isinstance(backlog.requeue_many(State.FAILED, None, clocks.wall + 1), BacklogFull)
        assert seen(backlog, id).state == State.FAILED
        backlog.close()


def test_many_are_queued_again_by_state_and_name_and_time(backlog: Backlog, clocks: Clocks) -> None:
    failed = [end_badly(backlog) for _ in range(3)]
    cancelled = end_badly(backlog, State.CANCELLED)
    clocks.pass_time(1)
    began = clocks.wall
    late = end_badly(backlog)
    assert backlog.requeue_many(State.FAILED, "other", began) == 0
    assert backlog.requeue_many(State.FAILED, "sleep", began) == 3
    assert backlog.requeue_many(State.FAILED, None, began) == 0
    assert {seen(backlog, id).state for id in failed} == {State.QUEUED}
    assert {seen(backlog, id).state for id in (cancelled, late)} == {State.CANCELLED, State.FAILED}


# versions, and lists


def test_every_change_of_state_is_a_new_version(backlog: Backlog) -> None:
    job = put_one(backlog)
    found = [backlog.versions([job.id])[job.id]]
    claim = claim_one(backlog)
    found.append(backlog.versions([job.id])[job.id])
    backlog.settle([settlement(claim, State.QUEUED)])
    found.append(backlog.versions([job.id])[job.id])
    for change in (backlog.cancel, backlog.requeue):
        change(job.id)
        found.append(backlog.versions([job.id])[job.id])
    assert found == [0, 1, 2, 3, 4]
    assert backlog.versions([new_id()]) == {}


def test_a_list_is_newest_first_and_goes_on_where_a_page_ended(backlog: Backlog) -> None:
    jobs = [put_one(backlog) for _ in range(5)]
    first = backlog.page(None, None, None, 2)
    assert [job.id for job in first.jobs] == [jobs[4].id, jobs[3].id]
    put_one(backlog)  # what comes meanwhile moves nothing
    rest = backlog.page(None, None, first.next, 9)
    assert [job.id for job in rest.jobs] == [jobs[n].id for n in (2, 1, 0)]
    assert rest.next is None


@pytest.mark.parametrize("state", State)
def test_a_list_shows_what_was_asked_for(backlog: Backlog, state: State) -> None:
    ids = {ended: end_badly(backlog, ended) for ended in ENDS}
    ids[State.RUNNING] = put_one(backlog).id
    backlog.claim(1, "w")
    ids[State.QUEUED] = put_one(backlog).id
    (job,) = backlog.page(state, "sleep", None, 10).jobs
    assert (job.id, job.state) == (ids[state], state)
    assert backlog.page(state, "other", None, 10).jobs == []
    if job.error is not None:
        assert json.loads(job.error) == {"type": "E", "message": "no"}


def test_a_page_looks_at_a_bounded_number_of_jobs(tmp_path: Path, clocks: Clocks) -> None:
    backlog = open_sqlite(tmp_path, clocks)
    rare = replace(a_job(), name="rare")
    backlog.put([rare, *(a_job() for _ in range(SCAN))])
    page = backlog.page(None, "rare", None, 10)
    assert page.jobs == []
    assert page.next is not None
    assert [job.id for job in backlog.page(None, "rare", page.next, 10).jobs] == [rare.id]
    backlog.close()


# callbacks


def test_an_end_that_nobody_has_been_told_of_is_kept(tmp_path: Path, clocks: Clocks) -> None:
    for open_ in ENGINES.values():
        backlog = open_(tmp_path, clocks, Bounds(keep_max=0))
        job = replace(a_job(), callback="http://a.example/")
        backlog.put([job])
        backlog.settle([settlement(claim_one(backlog))])
        backlog.prune()
        (callback,) = backlog.claim_callbacks(1, "w1")
        backlog.settle_callback(callback, "w1", None, None)
        backlog.prune()
        assert backlog.get(job.id) is None
        backlog.close()


def test_a_result_is_told_as_it_is_however_deep(backlog: Backlog) -> None:
    deep = b"[" * 5000 + b"]" * 5000  # no function of SQLite's reads that
    job = replace(a_job(), callback="http://a.example/")
    backlog.put([job])
    backlog.settle([settlement(claim_one(backlog), result=deep)])
    (callback,) = backlog.claim_callbacks(1, "w1")
    assert (callback.job, callback.state, callback.result, callback.error) == (job.id, State.SUCCEEDED, deep, None)


def test_another_chance_begins_anew(backlog: Backlog, clocks: Clocks) -> None:
    job = replace(a_job(), expires_in=1.0)
    backlog.put([job])
    clocks.pass_time(2)
    backlog.expire()
    backlog.requeue(job.id)
    record = seen(backlog, job.id)
    assert (record.started_at, record.expires_at, record.state) == (None, None, State.QUEUED)
