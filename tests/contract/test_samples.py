"""The sums that all workers share, how many jobs came to what, and whether there is room: run by every engine."""

from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.backlog.base import Backlog, Bounds
from service.backlog.sqlite import SqliteBacklog
from service.errors import BacklogFull, StoreFull
from service.job import State
from tests.contract.test_backlog import ENGINES, Clocks, a_job, backlog, claim_one, clocks, put_one, settlement

__all__ = ["backlog", "clocks"]


def test_what_is_published_is_added_to_what_was(backlog: Backlog) -> None:
    assert backlog.samples() == {}
    backlog.publish({"a": 1, 'b{"job": "x"}': 2})
    backlog.publish({"a": 1 << 60})
    assert backlog.samples() == {"a": (1 << 60) + 1, 'b{"job": "x"}': 2}


def test_of_a_batch_that_fails_nothing_is_added(backlog: Backlog) -> None:
    backlog.publish({"a": 1})
    with suppress(ZeroDivisionError), backlog.batch():
        backlog.publish({"a": 5, "b": 5})
        raise ZeroDivisionError
    assert backlog.samples() == {"a": 1}


def test_sums_outlive_who_published_them(backlog: Backlog) -> None:
    backlog.extend("w1", 30.0)
    backlog.publish({"a": 1})
    backlog.leave("w1")
    assert backlog.samples() == {"a": 1}


def test_sums_are_those_of_all_connections_and_survive_a_reopen(tmp_path: Path) -> None:
    one, other = (SqliteBacklog(str(tmp_path / "backlog.db")) for _ in range(2))
    one.publish({"a": 1})
    other.publish({"a": 2})
    assert one.samples() == other.samples() == {"a": 3}
    one.close()
    other.close()
    again = SqliteBacklog(str(tmp_path / "backlog.db"))
    assert again.samples() == {"a": 3}
    again.close()


def test_every_job_is_counted_when_it_is_put_and_when_it_ends(backlog: Backlog, clocks: Clocks) -> None:
    assert backlog.tally() == {}
    job = put_one(backlog)
    assert len(backlog.put([job])) == 1  # again
    backlog.settle([settlement(claim_one(backlog), State.QUEUED)])
    backlog.leave(claim_one(backlog) and "w1")
    assert backlog.tally() == {("sleep", State.QUEUED): 1}
    backlog.settle([settlement(claim_one(backlog), State.FAILED)])
    assert backlog.tally() == {("sleep", State.QUEUED): 1, ("sleep", State.FAILED): 1}


def test_whatever_ends_a_job_counts_it(backlog: Backlog, clocks: Clocks) -> None:
    cancelled, asked = put_one(backlog), put_one(backlog)
    backlog.put([replace(a_job(), expires_in=5.0)])
    backlog.cancel(cancelled.id)
    claim = claim_one(backlog)
    assert claim.job.id == asked.id
    backlog.cancel(asked.id)
    backlog.settle([settlement(claim, State.QUEUED)])
    clocks.pass_time(6)
    backlog.expire()
    ends = {("sleep", State.CANCELLED): 2, ("sleep", State.EXPIRED): 1}
    assert backlog.tally() == {("sleep", State.QUEUED): 3} | ends
    assert backlog.requeue(cancelled.id) == State.CANCELLED
    assert backlog.tally() == {("sleep", State.QUEUED): 3} | ends
    backlog.settle([settlement(claim_one(backlog))])
    assert backlog.tally() == {("sleep", State.QUEUED): 3} | ends | {("sleep", State.SUCCEEDED): 1}


def test_of_a_batch_that_fails_no_job_is_counted(backlog: Backlog) -> None:
    with suppress(ZeroDivisionError), backlog.batch():
        backlog.put([a_job()])
        raise ZeroDivisionError
    assert backlog.tally() == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_kept_no_longer_stays_counted(tmp_path: Path, engine: str) -> None:
    backlog = ENGINES[engine](tmp_path, Clocks(), Bounds(keep_max=0))
    put_one(backlog)
    backlog.settle([settlement(claim_one(backlog))])
    backlog.prune()
    assert sum(backlog.counts().values()) == 0
    assert backlog.tally() == {("sleep", State.QUEUED): 1, ("sleep", State.SUCCEEDED): 1}
    backlog.close()


def test_a_claim_says_how_long_it_was_due(backlog: Backlog, clocks: Clocks) -> None:
    backlog.put([replace(a_job(), delay=10.0)])
    clocks.pass_time(13)
    backlog.sweep("w1")
    assert claim_one(backlog).waited == 3.0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_full_backlog_says_so_and_room_again_when_a_job_is_claimed(tmp_path: Path, engine: str) -> None:
    backlog = ENGINES[engine](tmp_path, Clocks(), Bounds(backlog_max=2))
    put_one(backlog)
    assert backlog.refusal() is None
    with backlog.batch():
        backlog.put([a_job()])
        assert isinstance(backlog.refusal(), BacklogFull)
    assert isinstance(backlog.refusal(), BacklogFull)
    backlog.claim(1, "w1")
    assert backlog.refusal() is None
    backlog.close()


def test_where_the_reserve_of_the_disk_is_reached_that_is_the_reason(tmp_path: Path) -> None:
    backlog = SqliteBacklog(str(tmp_path / "backlog.db"), bounds=Bounds(disk_reserve=1 << 62))
    assert isinstance(backlog.refusal(), StoreFull)
    backlog.close()
