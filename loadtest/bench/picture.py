"""The benchmark as a picture: how far each figure has come on the way to its aim."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import picture
from .curves import CAPTION, Point
from .figures import Figures, Row, compared, head, number, reached, tables

COLOURS = {"aim": "#08519c", "at least": "#9ecae1", "no": picture.FAILED}
LABEL = 0.2  # of the aim, the width of what stands beside a bar
MOST = 2.0  # times the aim: further is not shown

check = picture.check


def draw(figures: Figures, out: Path) -> None:
    """bench.png and bench.html in the folder `out`."""
    picture.publish(lambda: plot(figures), out / "bench", "The benchmark", tables(figures), head(figures))


def plot(figures: Figures) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(picture.SIZE, layout="constrained")
    figure.suptitle(f"Each figure on its way to its aim, on {figures.cores} cores", fontsize=16)
    axes = figure.subplots()
    for place, (row, comparison) in enumerate(compared(figures)):
        bar(axes, place, row, comparison)
    axes.axvline(1.0, color="#222", lw=1)
    axes.text(1.0, 1.01, "the aim", ha="center", transform=axes.get_xaxis_transform())
    titles = [row.title.format(queued=f"{figures.queued:,}") for row, _ in compared(figures)]
    axes.set_yticks(range(len(titles)), titles)
    axes.invert_yaxis()
    axes.set(xlim=(0, MOST * 1.1), xlabel="share of the aim; the small line is what is wanted at least")
    return figure


def bar(axes: Any, place: int, row: Row, comparison: float) -> None:
    share = min(way(row, comparison), MOST)
    axes.barh(place, share, 0.6, color=COLOURS[reached(row, comparison)])
    least = way(row, row.at_least)
    axes.plot([least] * 2, [place - 0.4, place + 0.4], color="#222", lw=2)
    beside = max((line for line in (least, 1.0) if share < line < share + LABEL), default=share)  # not across a line
    axes.text(beside + 0.02, place, f"{number(comparison)} {row.sign}", va="center", fontsize=11)


def way(row: Row, comparison: float) -> float:
    """How much of the way to the aim: 1 there, more beyond."""
    if row.smaller:
        return row.aim / max(comparison, row.aim / MOST)
    return comparison / row.aim


def draw_curves(found: Mapping[str, list[Point]], tables: list[list[tuple[str, ...]]], out: Path) -> None:
    """curves.png and curves.html in the folder `out`."""
    picture.publish(
        lambda: plot_curves(found), out / "curves", "What each call costs as jobs grow many", tables, CAPTION
    )


def plot_curves(found: Mapping[str, list[Point]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(picture.SIZE, layout="constrained")
    figure.suptitle("What each call costs as jobs grow many", fontsize=16)
    for axes, (state, points) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        for name in points[0].costs:
            axes.plot(
                [max(point.jobs, 1) for point in points], [point.costs[name] for point in points], "o-", label=name
            )
        axes.set(xscale="log", yscale="log", xlabel=f"jobs {state}", ylabel="microseconds")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
