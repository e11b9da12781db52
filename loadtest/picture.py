"""The race as a picture: who succeeds, and how long an answer takes. A PNG for a slide, and a page of its own."""

import html
import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .exits import Unusable
from .race import Race, caption, rows

SIZE = (13.3, 7.5)  # inches: a 16:9 slide
DPI = 150
FIRST, SECOND = "#9ecae1", "#08519c"  # the small load, the flood
FAILED = "#c0392b"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
"""


def check() -> None:
    """Raises Unusable: asked before a race, since it is noticed only after it."""
    if find_spec("matplotlib") is None:
        raise Unusable("matplotlib is missing: start with `make stages`, which installs it.")


def draw(race: Race, out: Path) -> None:
    """stages.png and stages.html in the folder `out`."""
    publish(lambda: plot(race), out / "stages", "The ladder, raced", [rows(race)], caption(race))


def publish(
    plot: Callable[[], Any], out: Path, title: str, tables: Sequence[Sequence[tuple[str, ...]]], caption: str
) -> None:
    """The figure that `plot` makes, as out.png and, with the tables, as out.html."""
    from matplotlib import rc_context  # only here: a load test needs no pictures

    with rc_context({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}):
        figure = plot()
        figure.savefig(out.with_suffix(".png"), dpi=DPI)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
    out.with_suffix(".html").write_text(page(title, svg.getvalue(), tables, caption), encoding="utf-8")


def plot(race: Race) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(SIZE, layout="constrained")
    waits = f"clients wait {race.timeout:g} s at most"
    figure.suptitle(f"The ladder, raced on {race.cores} cores. Each request: {race.job}; {waits}", fontsize=16)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    success(left, race)
    latency(right, race)
    left.set_yticks(range(len(race.rungs)), [rung.name for rung in race.rungs])
    left.invert_yaxis()
    return figure


def success(axes: Any, race: Race) -> None:
    for place, rung in enumerate(race.rungs):
        for load, offset, colour in ((rung.burst, -0.19, FIRST), (rung.flood, 0.19, SECOND)):
            axes.barh(place + offset, load.success, 0.34, color=colour)
            axes.text(load.success + 1.5, place + offset, f"{load.success:g} %", va="center", fontsize=10)
    axes.set(xlim=(0, 118), xticks=(0, 50, 100), xlabel="requests that got their answer, %")
    labels = (f"{race.rungs[0].burst.requests} at once", flood(race))
    handles = [axes.barh(0, 0, color=colour) for colour in (FIRST, SECOND)]
    axes.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)


def latency(axes: Any, race: Race) -> None:
    """Of the answers; beside the time-out, how many requests got none."""
    style = {"patch_artist": True, "showfliers": False, "boxprops": {"facecolor": FIRST, "edgecolor": SECOND}}
    lines = {
        "medianprops": {"color": SECOND, "lw": 3},
        "whiskerprops": {"color": SECOND},
        "capprops": {"color": SECOND},
    }
    places = range(len(race.rungs))
    axes.boxplot(
        [rung.flood.times for rung in race.rungs],
        positions=places,
        whis=(1, 99),
        widths=0.5,
        orientation="horizontal",
        **style,
        **lines,
    )
    limit = 1000 * race.timeout
    axes.axvline(limit, color=FAILED, lw=1, ls=":")
    axes.text(limit, 1.01, " time-out", color=FAILED, fontsize=10, transform=axes.get_xaxis_transform())
    for place, rung in enumerate(race.rungs):
        if missing := rung.flood.requests - rung.flood.answered:
            axes.text(1.15 * limit, place, f"{missing:,}\nno answer", color=FAILED, va="center")
    axes.set(xscale="log", xlim=(1, 6 * limit), xlabel="time of the answers that came: 1, 25, 50, 75, 99 %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s")


def flood(race: Race) -> str:
    return f"{race.rungs[0].flood.requests:,} requests, {race.clients} at once"


def page(title: str, svg: str, tables: Sequence[Sequence[tuple[str, ...]]], caption: str) -> str:
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>
<h1>{title}</h1>
{svg[svg.index("<svg") :]}
{"".join(map(html_table, tables))}
<p>{html.escape(caption)}</p>
</html>
"""


def html_table(rows: Sequence[tuple[str, ...]]) -> str:
    head, *body = rows
    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in body)
    return f"<table><tr>{cells('th', head)}</tr>\n{lines}</table>\n"


def cells(tag: str, texts: tuple[str, ...]) -> str:
    return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)
