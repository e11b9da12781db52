"""What was measured, against what, and whether that is enough: for people a table, for programs JSON."""

import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Self


class Row(NamedTuple):
    """A figure of BENCH's table. `value` and `against` name what was measured; the goals are of their ratio, of their
    difference where the unit is MB, or of the value itself where there is nothing to compare it with."""

    title: str
    unit: str
    value: str
    against: str
    at_least: float
    aim: float
    smaller: bool = False  # is better

    @property
    def sign(self) -> str:
        """What stands behind the comparison."""
        if not self.against:
            return self.unit
        return "MB more" if self.unit == "MB" else "x"


class Part(NamedTuple):
    """A limit, measured beside."""

    title: str
    unit: str
    value: str


ROWS = (
    Row("durable accept, 64 clients, through nginx", "jobs/s", "accept", "bare accept", 0.80, 0.95),
    Row("p99 of that", "ms", "accept p99", "bare p99", 2.0, 1.3, smaller=True),
    Row("NDJSON intake, one stream", "jobs/s", "ndjson", "executemany", 0.5, 0.8),
    Row("drain of no-op jobs, results stored", "jobs/s", "drain", "peer drain", 2.0, 4.0),
    Row("accept to start, idle machine, p50", "ms", "start", "", 5.0, 2.0, smaller=True),
    Row("accept p99 at 200/s, all slots computing", "ms", "busy p99", "idle p99", 3.0, 1.5, smaller=True),
    Row("durable accept, {queued} queued", "jobs/s", "accept full", "accept", 0.85, 0.95),
    Row("drain, {queued} queued", "jobs/s", "drain full", "drain", 0.85, 0.95),
    Row("memory of a producer after that", "MB", "memory after", "memory before", 50.0, 10.0, smaller=True),
    Row("ready after make up", "s", "ready", "", 5.0, 2.0, smaller=True),
)
PARTS = (
    Part("a bare Tornado handler, 2 processes, same nginx, nothing stored", "jobs/s", "bare accept"),
    Part("executemany into the product's table, commits of 256 rows, fsync", "rows/s", "executemany"),
    Part("executemany into a table that only finds ids, commits of 256 rows, fsync", "rows/s", "plain rows"),
    Part("the same, commits of 50 rows", "rows/s", "sqlite"),
    Part("a process pool alone, a worker per core", "calls/s", "pool"),
    Part("huey on SQLite with fsync, 2 processes: accept", "jobs/s", "peer accept"),
    Part("huey on SQLite with fsync, 2 processes: drain", "jobs/s", "peer drain"),
)
HEAD = ("figure", "unit", "measured", "against", "", "ratio", "at least", "aim", "reached")


@dataclass
class Figures:
    """Of one run: every value by its name, in the order of the rounds."""

    date: str
    cores: int
    versions: dict[str, str]
    queued: int
    rounds: int
    real_time: bool = False  # whether this user's threads may run at once (service/linux.py)
    took: float = 0.0  # seconds
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float | None:
        return statistics.median(self.values[name]) if name in self.values else None

    def comparison(self, row: Row) -> float | None:
        """What the goals are of. None where it was not measured."""
        value, against = self.median(row.value), self.median(row.against)
        if value is None or (row.against and against is None):
            return None
        if against is None:
            return value
        return value - against if row.unit == "MB" else value / against

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def reached(row: Row, comparison: float) -> str:
    better: Callable[[float], bool] = (lambda goal: comparison <= goal) if row.smaller else lambda g: comparison >= g
    return "aim" if better(row.aim) else "at least" if better(row.at_least) else "no"


def number(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(figures: Figures, name: str) -> str:
    """The median, and from where to where."""
    values = figures.values.get(name, [])
    ends = f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
    return number(figures.median(name)) + ends


def cells(figures: Figures, row: Row) -> tuple[str, ...]:
    goals = [f"{'≤' if row.smaller else '≥'} {goal:g} {row.sign}" for goal in (row.at_least, row.aim)]
    comparison = figures.comparison(row)
    ratio = "" if comparison is None or not row.against else f"{number(comparison)} {row.sign}"
    against = (spread(figures, row.against), row.against) if row.against else ("", "")
    state = "not measured" if comparison is None else reached(row, comparison)
    title = row.title.format(queued=f"{figures.queued:,}")
    return title, row.unit, spread(figures, row.value), *against, ratio, *goals, state


def tables(figures: Figures) -> list[list[tuple[str, ...]]]:
    """The figures with their goals, then the parts alone."""
    rows = [cells(figures, row) for row in ROWS if row.value in figures.values]
    parts = [(part.title, part.unit, spread(figures, part.value)) for part in PARTS if part.value in figures.values]
    return [[HEAD, *rows], [("the parts alone", "unit", "measured"), *parts]]


def head(figures: Figures) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in figures.versions.items())
    return (
        f"Measured {figures.date} on {figures.cores} cores, which clients and servers share; {versions}. Medians of "
        f"{figures.rounds} rounds, one after the other for each figure, and from where to where; {figures.took:.0f} s "
        f"in all. Every accept is on disk (fsync) before its 202. The clients at 200/s, and commits of few jobs, run "
        f"{'in real time' if figures.real_time else 'as all else: this user has no real time (`ulimit -r`)'}."
    )


def versions() -> dict[str, str]:
    import apsw
    import tornado

    return {
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "Tornado": str(tornado.version),
        "SQLite": str(apsw.sqlite_lib_version()),
    }


def compared(figures: Figures) -> list[tuple[Row, float]]:
    """The rows that were measured, each with what its goals are of."""
    found = [(row, figures.comparison(row)) for row in ROWS]
    return [(row, comparison) for row, comparison in found if comparison is not None]
