"""Fills the marked blocks of the README and of the tour: what is said of figures and code is the run and the code.

    <!-- make settings -->           every setting, as the program prints it
    <!-- table sleep -->             the table of a race, from docs/ladder-sleep.json
    <!-- table bench -->            the tables of a benchmark, from docs/bench.json
    <!-- table curves -->           how costs grow, from docs/curves.json
    <!-- measured forked en -->      one stage's row of both races
    <!-- code blocking -->           a stage's code
    <!-- diff blocking forked -->    what differs between two stages, their docstrings left out

Each ends with <!-- end -->. `make docs` writes them; a test fails where one is not what it would write."""

import ast
import difflib
import re
from pathlib import Path

from loadtest.bench import curves
from loadtest.bench.figures import Figures, head, tables
from loadtest.race import Race, aligned, caption, table
from service.config import table as settings

DOCS = Path(__file__).parent
PAGES = (DOCS.parent / "README.md", DOCS / "ladder.md", DOCS / "ladder.zh-CN.md")
STAGES = DOCS.parent / "service/stages"
JOBS = ("sleep", "primes")
HEADS = {
    "en": "| job | 10 at once | flood | p50 | p99 |",
    "zh": "| 任务 | 10 个同时 | 洪峰 | p50 | p99 |",
}
BLOCK = re.compile(r"<!-- (make|table|measured|code|diff) ([\w ]+) -->\n(.*?)\n<!-- end -->", re.DOTALL)


def render(page: str) -> str:
    return BLOCK.sub(
        lambda found: f"<!-- {found[1]} {found[2]} -->\n{block(found[1], *found[2].split())}\n<!-- end -->", page
    )


def block(kind: str, *words: str) -> str:
    match kind, words:
        case "make", ["settings"]:
            return settings()
        case "table", ["bench"]:
            found = Figures.read(DOCS / "bench.json")
            return "\n\n".join((*map(aligned, tables(found)), head(found)))
        case "table", ["curves"]:
            return "\n\n".join((*map(aligned, curves.read(DOCS / "curves.json")), curves.CAPTION))
        case "table", [job]:
            return f"{table(race(job))}\n\n{caption(race(job))}"
        case "measured", [stage, language]:
            return measured(stage, language)
        case "code", [stage]:
            return f"```python\n{source(stage)}```"
        case "diff", [before, after]:
            return f"```diff\n{diff(before, after)}\n```"
        case _:
            raise ValueError(f"no such block: {kind} {' '.join(words)}")


def race(job: str) -> Race:
    return Race.read(DOCS / f"ladder-{job}.json")


def measured(stage: str, language: str) -> str:
    rows = [row(race(job), stage) for job in JOBS]
    return "\n".join([HEADS[language], "|---|--:|--:|--:|--:|", *rows])


def row(race: Race, stage: str) -> str:
    (rung,) = (rung for rung in race.rungs if rung.name == stage)
    burst, flood = rung.burst, rung.flood
    return f"| {race.job} | {burst.success:g} % | {flood.success:g} % | {flood.p50:,.0f} ms | {flood.p99:,.0f} ms |"


def source(stage: str) -> str:
    """Without the docstring: the tour says it in its own words."""
    text = (STAGES / f"{stage}.py").read_text()
    end = ast.parse(text).body[0].end_lineno or 0
    return "".join(text.splitlines(keepends=True)[end:]).lstrip()


def diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(source(before).splitlines(), source(after).splitlines(), n=1, lineterm="")
    return "\n".join("…" if text.startswith("@@") else text for text in lines if text[:3] not in ("---", "+++"))


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page.read_text()))
