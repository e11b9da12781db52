"""The race's figures, table and pictures say what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loadtest import picture, stages
from loadtest.answer import Answer
from loadtest.contestant import PRODUCT, STAGES
from loadtest.exits import Exit
from loadtest.race import Load, Race, Rung, caption, table
from loadtest.submit import Submission
from service.stages import STAGES as RUNNABLE


def submission(good: list[float], bad: list[float]) -> Submission:
    it = Submission(len(good) + len(bad), seconds=2.0)
    for number, seconds in enumerate(good):
        it.note(Answer(seconds, id=str(number)))
    for seconds in bad:
        it.note(Answer(seconds, reason="time-out", unknown=True))
    return it


def some_race(lost: int = 0) -> Race:
    flood = Load.of(submission([0.1, 0.2], [3.0] * 8), 2, 0)
    accepting = Load.of(submission([0.001 * n for n in range(1, 101)], []), 100 - lost, lost)
    rungs = [Rung("blocking", flood, flood, flood), Rung(PRODUCT, accepting, accepting, None)]
    return Race("2026-11-24", 2, "3.11.7", "sleep for 1 s", 100, 3.0, 90.0, rungs)


def test_percentiles_are_of_all_requests_and_the_picture_shows_the_answers() -> None:
    it = Load.of(submission([0.1, 0.2], [3.0] * 8), finished=5, lost=0)
    assert (it.p50, it.p99) == (3000.0, 3000.0)
    assert it.success == 20
    assert it.rate == 1.0
    assert set(it.times) == {100.0, 200.0}


def test_a_hundred_percent_means_all() -> None:
    almost = Load.of(submission([0.001] * 2999, [3.0]), 2999, 0)
    assert f"{almost.success:g}" == "99.97"


def test_many_times_are_thinned_and_keep_their_ends() -> None:
    it = Load.of(submission([0.001 * n for n in range(1, 3001)], []), 3000, 0)
    assert len(it.times) == 101
    assert (it.times[0], it.times[-1]) == (1.0, 3000.0)


def test_nothing_answered_is_a_result_too() -> None:
    it = Load.of(submission([], [3.0] * 10), 0, 0)
    assert (it.success, it.rate, it.times) == (0, 0, [])


def test_a_race_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    some_race().save(tmp_path / "race.json")
    assert Race.read(tmp_path / "race.json") == some_race()


def test_the_table_has_a_row_for_each_and_says_what_it_could_not_do() -> None:
    head, _, blocking, product = table(some_race()).splitlines()
    assert [cell.strip() for cell in head.split("|")[1:3]] == ["stage", "10 at once: success"]
    assert [cell.strip() for cell in blocking.split("|")[1:-1]] == (
        ["blocking", "20 %", "20 %", "3,000", "3,000", "1.0", "2", "0", "0 of 2"]
    )
    assert [cell.strip() for cell in product.split("|")[1:-1]][-2:] == ["0", "not killed"]
    assert "2 cores" in caption(some_race())


def test_the_pictures_need_nothing_from_elsewhere(tmp_path: Path) -> None:
    picture.draw(some_race(), tmp_path)
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "stages.html").read_text()
    assert "<svg" in page
    assert page.count("<tr>") == 3
    assert not re.search(r"<script|<link|<img|src=|@import|href=\"(?!#)", page)


@pytest.mark.parametrize(("lost", "code"), [(0, Exit.OK), (1, Exit.LOST)])
def test_a_job_that_the_product_loses_is_in_the_exit_code(lost: int, code: Exit, tmp_path: Path) -> None:
    assert stages.publish(some_race(lost), tmp_path) == code


def test_those_who_race_are_those_who_run() -> None:
    assert STAGES == RUNNABLE


def test_stages_are_raced_in_the_order_of_the_ladder() -> None:
    assert stages.contestants("service, blocking hello") == ("hello", "blocking", "service")
    for wrong in ("", "nope", "hello nope"):
        with pytest.raises(ValueError, match="must be some of hello"):
            stages.contestants(wrong)


def test_the_computing_job_takes_about_as_long_as_asked() -> None:
    import time

    from service.jobs import primes

    args = stages.calibrated("primes", 0.3)
    began = time.thread_time()
    primes(**args)
    assert 0.1 < time.thread_time() - began < 0.9


def test_a_load_without_a_second_is_no_division_by_zero() -> None:
    assert Load(1, 0, 0.0, 0.0, 0.0, [], 0, 0).rate == 0
