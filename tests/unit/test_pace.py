"""Which jobs share a slot, and how they are divided among slots."""

from hypothesis import given
from hypothesis import strategies as st

from service.pace import COURSE, COURSE_BYTES, SHORT, TOGETHER, Pace, courses, fitting, pack, spread

packs = st.lists(st.integers(1, TOGETHER), max_size=200)


def run(pace: Pace, name: str, seconds: float | None, times: int) -> None:
    for _ in range(times):
        pace.ran(name, seconds, 10)


def test_only_what_has_been_short_for_a_while_shares_a_slot() -> None:
    pace = Pace()
    assert pace.packs() == {}
    run(pace, "quick", 0.0001, 10)
    assert pace.packs() == {}
    run(pace, "quick", 0.0001, 90)
    run(pace, "slow", 2 * SHORT, 200)
    assert pace.packs() == {"quick": TOGETHER}


def test_what_shares_a_slot_is_expected_to_take_no_longer_than_a_course() -> None:
    pace = Pace()
    run(pace, "short", 0.004, 500)
    assert pace.packs() == {"short": int(COURSE / 0.004)}


def test_large_results_do_not_pile_up() -> None:
    pace = Pace()
    for _ in range(500):
        pace.ran("large", 0.0001, COURSE_BYTES // 4)
        pace.ran("huge", 0.0001, COURSE_BYTES)
    assert pace.packs() == {"large": 4}


def test_one_long_run_or_one_without_an_end_and_each_has_a_slot_to_itself_again() -> None:
    for seconds in (10.0, None):
        pace = Pace()
        run(pace, "quick", 0.0001, 100)
        assert pace.packs()
        pace.ran("quick", seconds, 10)
        assert pace.packs() == {}


def test_what_has_been_there_at_a_crash_runs_alone() -> None:
    assert pack("a", 0, 0, {"a": 9}) == 9
    assert pack("a", 1, 0, {"a": 9}) == pack("a", 0, 1, {"a": 9}) == pack("b", 0, 0, {"a": 9}) == 1


@given(packs)
def test_courses_have_every_job_once_in_order_and_none_is_too_full(packs: list[int]) -> None:
    parts = list(courses(packs))
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(len(packs)))
    for part in parts:
        shares = [1 / pack for pack in packs[part]]
        assert shares
        assert sum(shares) <= 1 + 1e-6


@given(packs, st.integers(0, 20))
def test_what_fits_is_as_much_as_the_slots_take(packs: list[int], slots: int) -> None:
    fits = fitting(packs, slots)
    assert len(list(courses(packs[:fits]))) <= slots
    if fits < len(packs):
        assert len(list(courses(packs[: fits + 1]))) > slots


@given(packs.filter(len), st.integers(1, 20))
def test_what_fits_is_spread_over_no_more_slots_than_there_are(packs: list[int], slots: int) -> None:
    packs = packs[: fitting(packs, slots)]
    parts = spread(packs, slots)
    assert len(parts) <= slots
    assert sum(part.stop - part.start for part in parts) == len(packs)


def test_a_few_short_jobs_have_a_slot_each() -> None:
    assert spread([TOGETHER] * 3, 4) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert spread([TOGETHER] * 10, 4) == [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 10)]
