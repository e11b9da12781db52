"""How much is taken in, and how long it is kept: what a backlog does with its Bounds, run by every engine."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.backlog.base import BITE, KEY_KEPT, Backlog, Bounds
from service.backlog.memory import MemoryBacklog
from service.backlog.sqlite import SqliteBacklog
from service.errors import BacklogFull
from service.job import Job, Receipt, State
from tests.contract.test_backlog import Clocks, a_job, claim_one, put_one, settlement

Open = Callable[[Bounds], Backlog]


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture(params=["memory", "sqlite"])
def open_with(request: pytest.FixtureRequest, tmp_path: Path, clocks: Clocks) -> Iterator[Open]:
    opened: list[Backlog] = []

    def open_(bounds: Bounds) -> Backlog:
        if request.param == "memory":
            opened.append(MemoryBacklog(clocks.read_boot, clocks.read_wall, bounds))
        else:
            opened.append(SqliteBacklog(str(tmp_path / "backlog.db"), clocks.read_boot, clocks.read_wall, bounds))
        return opened[-1]

    yield open_
    for backlog in opened:
        backlog.close()


def end(backlog: Backlog, count: int = 1) -> list[str]:
    """That many jobs, put and succeeded one after the other; their ids."""
    ids = []
    for _ in range(count):
        ids.append(put_one(backlog).id)
        assert backlog.settle([settlement(claim_one(backlog))]) == [True]
    return ids


def prune_all(backlog: Backlog) -> None:
    while backlog.prune():
        pass


def full(backlog: Backlog, count: int) -> list[bool]:
    """That many more jobs are put; for each whether it was refused."""
    return [isinstance(receipt, BacklogFull) for receipt in backlog.put([a_job() for _ in range(count)])]


def test_as_many_as_there_is_room_for_are_stored_and_the_rest_is_refused(open_with: Open) -> None:
    backlog = open_with(Bounds(backlog_max=3))
    assert full(backlog, 2) == [False, False]
    assert full(backlog, 3) == [False, True, True]
    assert backlog.counts()[State.QUEUED] == 3
    claim = claim_one(backlog)
    assert full(backlog, 1) == [False]
    backlog.settle([settlement(claim, State.QUEUED, delay=5.0)])
    assert full(backlog, 1) == [True]


def test_room_counts_what_the_same_batch_has_put(open_with: Open) -> None:
    backlog = open_with(Bounds(backlog_max=3))
    with backlog.batch():
        assert full(backlog, 2) == [False, False]
        assert full(backlog, 2) == [False, True]


def keyed(key: str, fingerprint: bytes = b"one") -> Job:
    return replace(a_job(), key=key, fingerprint=fingerprint)


def test_the_same_key_is_the_same_job(open_with: Open) -> None:
    backlog = open_with(Bounds())
    first, again, other = keyed("k"), keyed("k"), keyed("another")
    assert backlog.put([first, again, other]) == [
        Receipt(first.id, position=1),
        Receipt(first.id, new=False),
        Receipt(other.id, position=2),
    ]
    assert backlog.put([keyed("k")]) == [Receipt(first.id, new=False)]
    assert backlog.counts()[State.QUEUED] == 2


def test_the_same_key_for_another_request_stores_nothing(open_with: Open) -> None:
    backlog = open_with(Bounds())
    backlog.put([first := keyed("k")])
    assert backlog.put([keyed("k", b"two")]) == [Receipt(first.id, new=False, same=False)]
    assert backlog.counts()[State.QUEUED] == 1


def test_a_repetition_is_told_its_job_also_where_there_is_no_room(open_with: Open) -> None:
    backlog = open_with(Bounds(backlog_max=1))
    backlog.put([first := keyed("k")])
    repeated, new = backlog.put([keyed("k"), keyed("new")])
    assert repeated == Receipt(first.id, new=False)
    assert isinstance(new, BacklogFull)


def test_a_key_is_remembered_for_a_day_also_when_its_job_has_been_removed(open_with: Open, clocks: Clocks) -> None:
    backlog = open_with(Bounds(keep_max=0))
    backlog.put([first := keyed("k")])
    backlog.settle([settlement(claim_one(backlog))])
    prune_all(backlog)
    clocks.pass_time(KEY_KEPT - 1)
    prune_all(backlog)
    assert backlog.put([keyed("k")]) == [Receipt(first.id, new=False, state=None)]
    clocks.pass_time(2)
    prune_all(backlog)
    assert backlog.put([anew := keyed("k")]) == [Receipt(anew.id, position=1)]


def test_a_put_that_is_rolled_back_leaves_its_key_free(open_with: Open) -> None:
    backlog = open_with(Bounds())
    with suppress(RuntimeError), backlog.batch():
        backlog.put([keyed("k")])
        raise RuntimeError
    assert backlog.put([anew := keyed("k")]) == [Receipt(anew.id, position=1)]


def test_what_ended_long_ago_is_removed_and_remembered_as_removed(open_with: Open, clocks: Clocks) -> None:
    backlog = open_with(Bounds(keep=60.0))
    (old,) = end(backlog)
    clocks.pass_time(59)
    (young,) = end(backlog)
    prune_all(backlog)
    assert backlog.get(old) is not None
    clocks.pass_time(2)
    prune_all(backlog)
    assert backlog.get(old) is None
    assert backlog.removed(old)
    assert backlog.get(young) is not None
    assert backlog.counts()[State.SUCCEEDED] == 1
    assert backlog.ended() == 2


def test_an_id_that_never_was_is_not_taken_for_a_removed_one(open_with: Open, clocks: Clocks) -> None:
    backlog = open_with(Bounds(keep_max=0))
    assert not backlog.removed(a_job().id)
    end(backlog)
    prune_all(backlog)
    assert not backlog.removed(a_job().id)


def test_beyond_a_number_the_oldest_ended_are_removed(open_with: Open, clocks: Clocks) -> None:
    backlog = open_with(Bounds(keep_max=2))
    ids = []
    for _ in range(5):
        clocks.pass_time(1)
        ids += end(backlog)
    prune_all(backlog)
    assert [backlog.get(id) is not None for id in ids] == [False, False, False, True, True]
    assert [backlog.removed(id) for id in ids[:3]] == [True] * 3
    assert backlog.ended() == 5


def test_what_is_queued_again_has_ended_all_the_same(open_with: Open, clocks: Clocks) -> None:
    backlog = open_with(Bounds())
    cancelled = put_one(backlog).id
    backlog.cancel(cancelled)
    assert backlog.ended() == 1
    backlog.requeue(cancelled)
    assert backlog.ended() == 1
    end(backlog)
    assert backlog.ended() == 2


def test_only_what_has_ended_is_ever_removed(open_with: Open, clocks: Clocks) -> None:
    backlog = open_with(Bounds(keep=0.0, keep_max=0))
    running, queued, waiting = (put_one(backlog).id for _ in range(3))
    claim = claim_one(backlog)
    backlog.settle([settlement(claim, State.QUEUED, delay=math.inf)])
    claim_one(backlog)
    clocks.pass_time(1e6)
    prune_all(backlog)
    assert all(backlog.get(id) is not None for id in (running, queued, waiting))


def test_a_removal_that_is_rolled_back_has_removed_nothing(open_with: Open, clocks: Clocks) -> None:
    backlog = open_with(Bounds(keep_max=0))
    (id,) = end(backlog)
    with suppress(RuntimeError), backlog.batch():
        backlog.prune()
        raise RuntimeError
    assert backlog.get(id) is not None
    assert backlog.counts()[State.SUCCEEDED] == backlog.ended() == 1


def test_what_is_still_to_be_told_takes_nobodys_place(open_with: Open, clocks: Clocks) -> None:
    backlog = open_with(Bounds(keep_max=5))
    waiting = [replace(a_job(), callback="http://a.example/") for _ in range(5)]
    for job in waiting:
        backlog.put([job])
        backlog.settle([settlement(claim_one(backlog))])
    ids = end(backlog, 6)
    clocks.pass_time(1)
    backlog.claim_callbacks(2, "w1")  # under way is not told either
    prune_all(backlog)
    assert [backlog.get(id) is None for id in ids] == [True] + [False] * 5
    assert all(backlog.get(job.id) for job in waiting)


@pytest.mark.parametrize(("again", "error"), [(None, None), (None, "HTTP 410")])
def test_what_has_been_told_or_given_up_is_removed_like_all_others(
    open_with: Open, again: float | None, error: str | None
) -> None:
    backlog = open_with(Bounds(keep_max=0))
    job = replace(a_job(), callback="http://a.example/")
    backlog.put([job])
    backlog.settle([settlement(claim_one(backlog), State.FAILED)])
    (callback,) = backlog.claim_callbacks(1, "w1")
    backlog.settle_callback(callback, "w1", 5.0, "HTTP 500")
    prune_all(backlog)
    assert backlog.get(job.id) is not None
    backlog.settle_callback(replace(callback, tries=1), "w1", again, error)  # no longer the one who tells it
    prune_all(backlog)
    assert backlog.get(job.id) is not None
    assert backlog.requeue(job.id) == State.FAILED  # and then there is nothing to tell
    backlog.settle([settlement(claim_one(backlog))])
    prune_all(backlog)
    assert backlog.get(job.id) is not None
    (callback,) = backlog.claim_callbacks(1, "w1")
    backlog.settle_callback(callback, "w1", again, error)
    prune_all(backlog)
    assert backlog.get(job.id) is None


def test_removals_go_in_small_bites_and_the_file_stops_growing(tmp_path: Path) -> None:
    backlog = SqliteBacklog(str(tmp_path / "backlog.db"), bounds=Bounds(keep_max=BITE))

    def round_of_jobs() -> int:
        with backlog.batch():
            backlog.put([a_job() for _ in range(3 * BITE)])
            backlog.settle([settlement(claim) for claim in backlog.claim(3 * BITE, "w1")])
        bites = 1
        while backlog.prune():
            bites += 1
        assert bites >= 3
        assert backlog.counts()[State.SUCCEEDED] == BITE
        pages: int = backlog._db.pragma("page_count")
        return pages

    first = [round_of_jobs() for _ in range(3)][-1]
    assert [round_of_jobs() for _ in range(5)][-1] <= 1.1 * first
    backlog.close()
