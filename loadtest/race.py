"""What came of a race, for people and for programs: the figures, the table."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from .report import percentile
from .submit import Submission

POINTS = 100  # answer times kept of a load, evenly spread over all: enough for a picture


@dataclass(frozen=True)
class Load:
    """One load on one server. Times in milliseconds; p50 and p99 of all requests, where one without an answer took its
    client's patience; `times` of the answers alone."""

    requests: int
    answered: int
    seconds: float
    p50: float
    p99: float
    times: list[float]
    finished: int  # jobs that ran to their end, also those whose client had gone
    lost: int  # answered as accepted, and never finished

    @classmethod
    def of(cls, submission: Submission, finished: int, lost: int) -> Self:
        times, good = sorted(submission.times), sorted(submission.accepted_times)
        return cls(
            submission.requests,
            len(submission.ids),
            round(submission.seconds, 3),
            round(1000 * percentile(times, 0.50), 1),
            round(1000 * percentile(times, 0.99), 1),
            [round(1000 * percentile(good, n / POINTS), 1) for n in range(POINTS + 1)] if good else [],
            finished,
            lost,
        )

    @property
    def success(self) -> float:
        """Percent; 100 means all."""
        exact = 100 * self.answered / self.requests
        return round(exact, 1 if 1 <= exact < 99 else 2) if exact < 99.99 else math.floor(100 * exact) / 100

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Rung:
    name: str
    burst: Load
    flood: Load
    crash: Load | None

    @classmethod
    def read(cls, item: dict[str, Any]) -> Self:
        crash = item["crash"] and Load(**item["crash"])
        return cls(item["name"], Load(**item["burst"]), Load(**item["flood"]), crash)

    @property
    def loads(self) -> list[Load]:
        return [load for load in (self.burst, self.flood, self.crash) if load]

    def __str__(self) -> str:
        burst, flood, crash = self.burst, self.flood, self.crash
        killed = f"; at kill -9 {crash.lost} of {crash.answered} lost" if crash else ""
        return (
            f"{burst.answered} of {burst.requests} answered, then {flood.answered} of {flood.requests} "
            f"(p50 {flood.p50:,.0f} ms, p99 {flood.p99:,.0f} ms){killed}"
        )


@dataclass(frozen=True)
class Race:
    date: str
    cores: int
    python: str
    job: str
    clients: int
    timeout: float  # seconds
    took: float  # seconds
    rungs: list[Rung]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**content | {"rungs": [Rung.read(item) for item in content["rungs"]]})


def caption(race: Race) -> str:
    """What the figures mean, and where they come from."""
    return (
        f"Measured {race.date} on {race.cores} cores, which the clients share, with Python {race.python}, in "
        f"{race.took:.0f} s: job {race.job}, clients that wait {race.timeout:g} s. Times are of all "
        "requests; one without an answer counts as long as its client waited. Jobs finished: by the end of the flood, "
        "also those whose client had gone; where jobs are accepted first, when all of those had ended. Jobs lost: "
        "answered as accepted, and never finished."
    )


COLUMNS = (
    "stage",
    "{burst} at once: success",
    "{flood:,}, {clients} at once: success",
    "p50 ms",
    "p99 ms",
    "answers/s",
    "jobs finished",
    "jobs lost",
    "lost at kill -9",
)


def rows(race: Race) -> list[tuple[str, ...]]:
    """The head, and a row for each."""
    first = race.rungs[0]
    words = {"burst": first.burst.requests, "flood": first.flood.requests, "clients": race.clients}
    return [tuple(column.format(**words) for column in COLUMNS), *(row(rung) for rung in race.rungs)]


def row(rung: Rung) -> tuple[str, ...]:
    flood, crash = rung.flood, rung.crash
    return (
        rung.name,
        f"{rung.burst.success:g} %",
        f"{flood.success:g} %",
        f"{flood.p50:,.0f}",
        f"{flood.p99:,.0f}",
        f"{flood.rate:,.0f}" if flood.rate >= 10 else f"{flood.rate:.1f}",
        f"{flood.finished:,}",
        f"{flood.lost:,}",
        f"{crash.lost} of {crash.answered}" if crash else "not killed",
    )


def table(race: Race) -> str:
    """Markdown."""
    return aligned(rows(race))


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table, aligned so that a terminal shows it well too."""
    first, *others = (list(column) for column in zip(*rows, strict=True))
    columns = [ruled(first, str.ljust, "--"), *(ruled(column, str.rjust, "-:") for column in others)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in zip(*columns, strict=True))


def ruled(column: list[str], align: Any, rule: str) -> list[str]:
    width = max(map(len, column))
    head, *cells = (align(text, width) for text in column)
    return [head, rule.rjust(width, "-"), *cells]
