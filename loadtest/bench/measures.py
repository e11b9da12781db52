"""Each figure: how it is measured once."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from ..contestant import ROOT, own_stack
from ..exits import Unusable
from ..report import percentile
from .arena import SERVERS, SLOTS, Arena, arena
from .figures import Figures
from .limits import ROWS, inserts, pool_calls, same_rows
from .openloop import latencies
from .store import fill
from .wrk import Saturation, saturate

BODY = '{"job": "noop", "args": {"job_id": 7}}'
LINE = BODY.encode() + b"\n"
BARE = ("loadtest.bench.bare",)
RATE = 200  # requests per second, of the latencies
WARM = 1.0  # seconds of load before what is measured
STARTS = 100  # jobs, one after the other
PAUSE = 0.02  # seconds between them, in which the machine is idle
CHUNK = 1_000  # lines sent at once
NDJSON = {"Content-Type": "application/x-ndjson"}
NDJSON_COMMIT = 256  # rows: what a request with lines has in one commit
LOOK = 0.05
EMPTY_LIMIT = 120.0  # seconds in which a backlog is drained, or the slots are occupied


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rounds: int
    seconds: float  # of each load
    lines: int
    drained: int  # jobs
    queued: int


Steps = Callable[[Plan, Figures, Path], list[tuple[str, Callable[[], None]]]]

QUICK = Plan(rounds=1, seconds=3.0, lines=20_000, drained=10_000, queued=100_000)
FULL = Plan(rounds=3, seconds=8.0, lines=100_000, drained=30_000, queued=1_000_000)


def measure(plan: Plan, figures: Figures, beside: Sequence[Steps]) -> Iterator[str]:
    """All figures, round by round, and those of whom they are measured beside; says what comes next."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        full = Path(folder) / "backlog.db"
        yield f"filling a backlog with {plan.queued:,} jobs"
        fill(full, plan.queued)
        for number in range(1, plan.rounds + 1):
            more = [step for steps_of in beside for step in steps_of(plan, figures, Path(folder))]
            for what, step in [*steps(plan, figures, Path(folder), full), *more]:
                yield f"round {number} of {plan.rounds}: {what}"
                step()


def steps(plan: Plan, f: Figures, folder: Path, full: Path) -> list[tuple[str, Callable[[], None]]]:
    return [
        ("a bare Tornado handler", lambda: bare(plan, f)),
        ("durable accept", lambda: accept(plan, f)),
        (f"durable accept, {plan.queued:,} queued", lambda: accept_full(plan, f, full)),
        ("lines", lambda: lines(plan, f)),
        ("the same rows by executemany", lambda: f.add("executemany", same_rows(folder, plan.lines, NDJSON_COMMIT))),
        ("plain rows by executemany", lambda: f.add("plain rows", inserts(folder, plan.lines, NDJSON_COMMIT))),
        ("SQLite alone", lambda: f.add("sqlite", inserts(folder, plan.lines, ROWS))),
        ("drain", lambda: f.add("drain", drain(folder, plan.drained))),
        (f"drain, {plan.queued:,} queued", lambda: f.add("drain full", drained(full, plan.drained))),
        ("a process pool alone", lambda: f.add("pool", pool_calls(plan.seconds / 2))),
        ("accept to start", lambda: starts(f)),
        ("latency, slots asleep", lambda: latency(plan, f, "sleep", "idle p99")),
        ("latency, slots computing", lambda: latency(plan, f, "burn", "busy p99")),
        ("make up", lambda: ready(f)),
    ]


def bare(plan: Plan, figures: Figures) -> None:
    with arena(*BARE) as it:
        came = saturated(it, plan)
    figures.add("bare accept", came.rate)
    figures.add("bare p99", came.p99)


def accept(plan: Plan, figures: Figures) -> None:
    """With every slot occupied by a job that waits, as it is where jobs are slow and come faster than they are run."""
    with arena() as it:
        occupy(it, "sleep")
        came = saturated(it, plan)
    figures.add("accept", came.rate)
    figures.add("accept p99", came.p99)


def accept_full(plan: Plan, figures: Figures, full: Path) -> None:
    with arena(backlog=full) as it:
        occupy(it, "sleep")
        figures.add("memory before", memory(it))
        figures.add("accept full", saturated(it, plan).rate)
        figures.add("memory after", memory(it))


def saturated(it: Arena, plan: Plan) -> Saturation:
    saturate(it.url, BODY, WARM)
    return saturate(it.url, BODY, plan.seconds)


def occupy(it: Arena, job: str) -> None:
    """Every slot, until the arena ends."""
    for _ in range(SERVERS * SLOTS):
        it.ask("/jobs", {"job": job, "args": {"seconds": 3600}, "priority": 100, "attempts": 1})
    wait_for(lambda: running(it, job) == SERVERS * SLOTS, "the slots are occupied")


def running(it: Arena, job: str) -> int:
    return sum(slot["job"] == job for producer in it.ask("/stats")["producers"] for slot in producer["running"])


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + EMPTY_LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise Unusable(f"Not within {EMPTY_LIMIT:.0f} s: {what}.")
        time.sleep(LOOK)


def memory(it: Arena) -> float:
    """Of the largest producer, in MB: what is its own, not files."""
    status = [Path(f"/proc/{pid}/status").read_text() for pid in it.producers()]
    return max(int(text.partition("RssAnon:")[2].split()[0]) for text in status) / 1024


def lines(plan: Plan, figures: Figures) -> None:
    body = (LINE * min(CHUNK, plan.lines - sent) for sent in range(0, plan.lines, CHUNK))
    with arena() as it, requests.Session() as session:
        session.trust_env = False
        occupy(it, "sleep")
        began = time.monotonic()
        answer = session.post(f"{it.url}/jobs", data=body, headers=NDJSON, timeout=600)
        took = time.monotonic() - began
    receipts = [json.loads(line) for line in answer.text.splitlines()]
    if len(receipts) != plan.lines or not all("id" in receipt for receipt in receipts):
        raise Unusable(f"{plan.lines} lines had {len(receipts)} receipts, and {receipts[-1:]} at the end.")
    figures.add("ndjson", plan.lines / took)


def drain(folder: Path, jobs: int) -> float:
    file = folder / "drained.db"
    fill(file, jobs)
    try:
        return drained(file, jobs)
    finally:
        file.unlink()


def drained(backlog: Path, jobs: int) -> float:
    """Jobs per second, between the first tenth of so many and the last."""
    with arena(backlog=backlog) as it:
        marks: list[tuple[float, int]] = []
        wait_for(lambda: ended(it, marks) >= jobs * 0.1, "a tenth of the jobs has ended")
        first = marks[-1]
        wait_for(lambda: ended(it, marks) >= jobs * 0.9, "nine tenths of the jobs have ended")
        (then, before), (now, after) = first, marks[-1]
        return (after - before) / (now - then)


def ended(it: Arena, marks: list[tuple[float, int]]) -> int:
    states = it.ask("/stats")["states"]
    if states["failed"]:
        raise Unusable(f"{states['failed']} jobs that do nothing failed.")
    marks.append((time.monotonic(), states["succeeded"]))
    return int(states["succeeded"])


def starts(figures: Figures) -> None:
    """From the 202 to the first line of the job, by the same clock."""
    with arena() as it:
        took = [start(it) for _ in range(STARTS + SERVERS * SLOTS)][SERVERS * SLOTS :]  # without those that start slots
    figures.add("start", statistics.median(took))


def start(it: Arena) -> float:
    time.sleep(PAUSE)
    id = it.ask("/jobs", {"job": "clock"})["id"]
    accepted = time.time()
    job = it.ask(f"/jobs/{id}?wait=10")
    if job["state"] != "succeeded":
        raise Unusable(f"A job that tells the time is {job['state']}.")
    began: float = job["result"]
    return 1000 * max(0.0, began - accepted)


def latency(plan: Plan, figures: Figures, job: str, name: str) -> None:
    with arena() as it:
        occupy(it, job)
        latencies(it.url, BODY, RATE, WARM)
        figures.add(name, percentile(sorted(latencies(it.url, BODY, RATE, plan.seconds)), 0.99))


def ready(figures: Figures) -> None:
    """The stack on the bare machine, as `make up` starts it. A container has none."""
    if not (ROOT / ".venv").exists():
        return
    began = time.monotonic()
    with own_stack():
        figures.add("ready", time.monotonic() - began)
