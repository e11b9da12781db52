"""The sums that all workers share, and whether there is room: run by every engine."""

from contextlib import suppress
from pathlib import Path

import pytest

from service.backlog.base import Backlog, Bounds
from service.backlog.sqlite import SqliteBacklog
from service.errors import BacklogFull, StoreFull
from tests.contract.test_backlog import ENGINES, Clocks, a_job, backlog, clocks, put_one

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
