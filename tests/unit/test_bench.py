"""What the benchmark makes of its figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench import figures
from loadtest.bench.figures import ROWS, Figures, cells, reached
from service.job import State
from tests.support import ROOT


def measured(**values: list[float]) -> Figures:
    return Figures(
        "2026-01-01", 2, {"Python": "3"}, 1_000_000, 3, values={k.replace("_", " "): v for k, v in values.items()}
    )


def row(value: str) -> figures.Row:
    return next(row for row in ROWS if row.value == value)


def test_a_ratio_is_of_medians_and_says_what_it_has_reached() -> None:
    it = measured(accept=[100.0, 900.0, 850.0], bare_accept=[1000.0, 2000.0, 900.0])
    assert it.comparison(row("accept")) == 0.85
    assert cells(it, row("accept"))[2:] == (
        "850 (100 to 900)",
        "1,000 (900 to 2,000)",
        "bare accept",
        "0.85 x",
        "≥ 0.8 x",
        "≥ 0.95 x",
        "at least",
    )


@pytest.mark.parametrize(("ratio", "word"), [(1.0, "aim"), (1.3, "aim"), (1.4, "at least"), (2.1, "no")])
def test_where_smaller_is_better_less_is_more(ratio: float, word: str) -> None:
    assert reached(row("accept p99"), ratio) == word


def test_memory_is_compared_by_its_difference_and_a_time_by_itself() -> None:
    it = measured(memory_after=[40.0], memory_before=[32.0], start=[1.5])
    assert it.comparison(row("memory after")) == 8.0
    assert it.comparison(row("start")) == 1.5


def test_what_was_not_measured_is_not_in_the_table_and_has_no_figure() -> None:
    it = measured(drain=[7000.0])
    (_, only), parts = figures.tables(it)
    assert only[-1] == "not measured"
    assert len(parts) == 1


def test_costs_do_not_grow_with_the_backlog(tmp_path: Path) -> None:
    """The curve itself at small sizes: that it runs, and that what fills is what the engine counts and lists."""
    from loadtest.bench import curves

    points = list(curves.curve(State.QUEUED, (0, 500)))
    assert [point.jobs for point in points] == [0, 500]
    assert all(cost > 0 for point in points for cost in point.costs.values())
    file = tmp_path / "backlog.db"
    backlog = curves.open_backlog(f"sqlite:{file}")
    curves.fill(file, State.SUCCEEDED, 0, 300)
    assert backlog.counts()[State.SUCCEEDED] == 300
    assert len(backlog.page(State.SUCCEEDED, None, None, 50).jobs) == 50
    backlog.close()


def test_a_wrong_option_is_a_sentence() -> None:
    command = [sys.executable, "-m", "loadtest", "bench", "--quick", "maybe"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "QUICK must be 1 or nothing, not 'maybe'.\n")


def test_the_figures_are_kept_as_json(tmp_path: Path) -> None:
    it = measured(accept=[1.0])
    it.save(tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text())["values"] == {"accept": [1.0]}
