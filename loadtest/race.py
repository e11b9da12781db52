"""What came of a race, for people and for programs: the figures, the table."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from .report import percentile
from .submit import Submission

POINTS = 200  # of a latency curve: more than a picture can show


@dataclass(frozen=True)
class Load:
    """One load on one server. Times in milliseconds, of all requests: one without an answer took its client's patience.
    `curve`: [time, share of all requests that had their answer by then]."""

    requests: int
    answered: int
    seconds: float
    p50: float
    p99: float
    curve: list[list[float]]
    finished: int  # jobs that ran to their end, also those whose client had gone
    lost: int  # answered as accepted, and never finished

    @property
    def success(self) -> float:
        """Percent, rounded down, so that 100 means all."""
        return 10_000 * self.answered // self.requests / 100

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

    @property
    def loads(self) -> list[Load]:
        return [load for load in (self.burst, self.flood, self.crash) if load]


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
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**content | {"rungs": [rung(item) for item in content["rungs"]]})


def rung(item: dict[str, Any]) -> Rung:
    crash = item["crash"] and Load(**item["crash"])
    return Rung(item["name"], Load(**item["burst"]), Load(**item["flood"]), crash)


def load(submission: Submission, finished: int, lost: int) -> Load:
    times = sorted(submission.times)
    return Load(
        submission.requests,
        len(submission.ids),
        round(submission.seconds, 3),
        round(1000 * percentile(times, 0.50), 1),
        round(1000 * percentile(times, 0.99), 1),
        curve(submission),
        finished,
        lost,
    )


def curve(submission: Submission) -> list[list[float]]:
    times, requests = sorted(submission.accepted_times), submission.requests
    step = max(len(times) // POINTS, 1)
    places = sorted({*range(0, len(times), step), *([len(times) - 1] if times else [])})
    return [[round(1000 * times[place], 2), round((place + 1) / requests, 4)] for place in places]


def summary(rung: Rung) -> str:
    burst, flood, crash = rung.burst, rung.flood, rung.crash
    killed = f"; at kill -9 {crash.lost} of {crash.answered} lost" if crash else ""
    return (
        f"{burst.answered} of {burst.requests} answered, then {flood.answered} of {flood.requests} "
        f"(p50 {flood.p50:,.0f} ms, p99 {flood.p99:,.0f} ms){killed}"
    )


def caption(race: Race) -> str:
    """What the figures mean, and where they come from."""
    return (
        f"Measured {race.date} on {race.cores} cores, which the clients share, with Python {race.python}, in "
        f"{race.took / 60:.0f} minutes: job {race.job}, clients that wait {race.timeout:g} s. Times are of all "
        "requests; one without an answer counts as long as its client waited. Jobs finished: in the flood, also those "
        "whose client had gone. Jobs lost: answered as accepted, and never finished."
    )


COLUMNS = (
    "stage",
    "{burst} at once: success",
    "{flood}, {clients} at once: success",
    "p50 ms",
    "p99 ms",
    "answers/s",
    "jobs finished",
    "jobs lost",
    "lost at kill -9",
)


def table(race: Race) -> str:
    """Markdown, aligned so that a terminal shows it well too."""
    first = race.rungs[0]
    words = {"burst": first.burst.requests, "flood": first.flood.requests, "clients": race.clients}
    rows = [tuple(column.format(**words) for column in COLUMNS), *(row(rung) for rung in race.rungs)]
    widths = [max(len(cells[place]) for cells in rows) for place in range(len(COLUMNS))]
    lines = [line(cells, widths) for cells in rows]
    lines.insert(
        1, "|" + "|".join("-" * (width + 1) + ("-" if not place else ":") for place, width in enumerate(widths)) + "|"
    )
    return "\n".join(lines)


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


def line(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = [
        cells[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
    ]
    return "| " + " | ".join(padded) + " |"
