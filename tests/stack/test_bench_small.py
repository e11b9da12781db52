"""The benchmark for real, but small: every figure is measured, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from loadtest.bench import figures, measures, picture
from loadtest.bench.figures import ROWS, Figures

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (shutil.which("wrk") and shutil.which("nginx", path="/usr/sbin:/usr/bin")), reason="no wrk, or no nginx"
    ),
]
SMALL = replace(measures.QUICK, seconds=1.0, lines=2_000, drained=2_000, queued=3_000)


def test_every_figure_is_measured_drawn_and_kept(tmp_path: Path) -> None:
    found = Figures("2026-01-01", 2, figures.versions(), SMALL.queued, SMALL.rounds)
    steps = list(measures.measure(SMALL, found, []))
    assert len(steps) > len(ROWS)
    for row in ROWS:
        assert all(value > 0 for value in found.values[row.value]), row
        if row.against != "peer drain":
            comparison = found.comparison(row)
            assert comparison is not None, row
    # What is bounded everywhere, however busy the machine: what is measured is what is meant.
    assert found.values["accept"][0] < found.values["sqlite"][0]
    assert found.values["memory after"][0] < 200
    picture.draw(found, tmp_path)
    found.save(tmp_path / "bench.json")
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert "<svg" in (tmp_path / "bench.html").read_text()
    assert json.loads((tmp_path / "bench.json").read_text())["values"] == found.values
    left = [
        process
        for process in psutil.Process().children(recursive=True)
        if "loadtest.bench" in " ".join(process.cmdline())
    ]
    assert not left
