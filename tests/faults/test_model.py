"""Several processes on one file, each of which may be killed at any time, against a model of what must be stored."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import apsw
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.backlog.sqlite import LATE, SqliteBacklog
from service.job import Claim, Job, Receipt, Settlement, State

DAY = 86_400.0  # seconds
LEASE = 30.0  # seconds
SLOTS = ("a", "b", "c")
EYE = "eye"  # looks and sweeps, and never dies

places = st.sampled_from(SLOTS)


@dataclass
class Stored:
    """One job, as it must be."""

    state: State = State.QUEUED
    worker: str | None = None
    token: int = 0
    attempt: int = 0
    lines: int = 0  # of its history
    due: float | None = None


class Processes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.boot, self.wall, self.born = 1_000.0, 1_700_000_000.0, 0
        self.eye = self.open()
        self.live: dict[str, tuple[str, SqliteBacklog]] = {}  # by place: the worker's name and its connection
        self.dead: set[str] = set()  # killed, and not yet found by a sweep
        self.leases: dict[str, float] = {}
        self.late: dict[str, float] = {}  # by worker: when it renewed a lease that had ended
        self.jobs: dict[str, Stored] = {}  # in order of arrival
        self.claims: list[tuple[str, Claim]] = []
        self.samples: Counter[str] = Counter()

    def open(self) -> SqliteBacklog:
        return SqliteBacklog(str(self.folder / "backlog.db"), lambda: self.boot, lambda: self.wall)

    def teardown(self) -> None:
        for _, backlog in self.live.values():
            backlog.close()
        self.eye.close()
        db = apsw.Connection(str(self.folder / "backlog.db"))
        assert db.pragma("integrity_check") == "ok"
        db.close()
        shutil.rmtree(self.folder)

    def at(self, place: str) -> tuple[str, SqliteBacklog]:
        """The worker there; a new one when there is none."""
        if place not in self.live:
            self.born += 1
            name, backlog = f"{place}{self.born}", self.open()
            assert backlog.extend(name, LEASE) is False
            self.leases[name] = self.boot + LEASE
            self.live[place] = name, backlog
        return self.live[place]

    def give_back(self, worker: str) -> int:
        """What it holds is queued again, and the attempt does not count."""
        held = [job for job in self.jobs.values() if job.worker == worker]
        for job in held:
            job.state, job.worker, job.attempt, job.lines = State.QUEUED, None, job.attempt - 1, job.lines + 1
        self.leases.pop(worker, None)
        return len(held)

    @rule(place=places, count=st.integers(1, 3))
    def put(self, place: str, count: int) -> None:
        ids = [f"job-{len(self.jobs) + n}" for n in range(count)]
        receipts = self.at(place)[1].put([Job(id, "noop", b"{}", 60.0, 3) for id in ids])
        assert [receipt.id for receipt in receipts if isinstance(receipt, Receipt) and receipt.new] == ids
        self.jobs |= {id: Stored() for id in ids}

    @rule(place=places, limit=st.integers(1, 3))
    def claim(self, place: str, limit: int) -> None:
        worker, backlog = self.at(place)
        ready = [id for id, job in self.jobs.items() if job.state == State.QUEUED and job.due is None][:limit]
        claims = backlog.claim(limit, worker)
        assert [claim.job.id for claim in claims] == ready
        for claim in claims:
            job = self.jobs[claim.job.id]
            job.state, job.worker, job.token, job.attempt = State.RUNNING, worker, claim.token, job.attempt + 1
            assert claim.attempt == job.attempt
            self.claims.append((worker, claim))

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        place=places,
        state=st.sampled_from([State.SUCCEEDED, State.FAILED, State.QUEUED]),
        waits=st.booleans(),
    )
    def settle(self, data: st.DataObject, place: str, state: State, waits: bool) -> None:
        """By whoever is there: only the token says who may."""
        _, claim = data.draw(st.sampled_from(self.claims))
        job, delay = self.jobs[claim.job.id], 5.0 if waits and state == State.QUEUED else 0.0
        settlement = Settlement(claim.job.id, claim.token, state, claim.attempt, 0, b"{}", delay)
        current = job.state == State.RUNNING and job.token == claim.token
        assert self.at(place)[1].settle([settlement]) == [current]
        if current:
            job.state, job.worker, job.lines = state, None, job.lines + 1
            job.due = self.boot + delay if delay else None

    @rule(place=places)
    def extend(self, place: str) -> None:
        worker, backlog = self.at(place)
        if self.leases.get(worker, self.boot) < self.boot:
            self.late[worker] = self.boot
        assert backlog.extend(worker, LEASE) == (worker in self.leases)
        self.leases[worker] = self.boot + LEASE

    @rule(place=places, sample=st.sampled_from("ab"), n=st.integers(1, 9))
    def publish(self, place: str, sample: str, n: int) -> None:
        self.at(place)[1].publish({sample: n})
        self.samples[sample] += n

    @rule(place=places)
    def leave(self, place: str) -> None:
        if place in self.live:
            worker, backlog = self.live.pop(place)
            backlog.leave(worker)
            backlog.close()
            self.give_back(worker)

    @rule(place=places)
    def kill(self, place: str) -> None:
        """The kernel lets go of its lock; nobody was told."""
        if place in self.live:
            worker, backlog = self.live.pop(place)
            backlog.close()
            self.dead.add(worker)

    @rule()
    def kill_all_and_open_again(self) -> None:
        for place in SLOTS:
            self.kill(place)
        self.eye.close()
        self.eye = self.open()

    @rule(seconds=st.sampled_from([1, 6, 31]), step=st.sampled_from([0, DAY, -DAY]))
    def time_passes(self, seconds: float, step: float) -> None:
        self.boot += seconds
        self.wall += seconds + step

    @rule(place=st.sampled_from([*SLOTS, EYE]))
    def sweep(self, place: str) -> None:
        sweeper, backlog = (EYE, self.eye) if place == EYE else self.at(place)
        due = [job for job in self.jobs.values() if job.due is not None and job.due <= self.boot]
        for job in due:
            job.due = None
        expired = {worker for worker, until in self.leases.items() if until < self.boot}
        if sweeper in expired or self.boot < self.late.get(sweeper, -LATE) + LATE:
            expired.clear()  # who was late itself holds nobody else for dead
        lost = sum(self.give_back(worker) for worker in self.dead | expired)
        self.dead.clear()
        assert backlog.sweep(sweeper) == len(due) + lost

    @invariant()
    def the_store_is_what_it_must_be(self) -> None:
        for id, job in self.jobs.items():
            record = self.eye.get(id)
            assert record is not None, f"{id} is lost"
            found = Stored(record.state, job.worker, job.token, record.attempt, len(json.loads(record.history)))
            assert found == replace(job, due=None), id
        states = Counter(job.state for job in self.jobs.values())
        assert self.eye.counts() == {state: states[state] for state in State}
        running = {(r.id, r.worker) for r in self.eye.running()}
        assert running == {(id, job.worker) for id, job in self.jobs.items() if job.state == State.RUNNING}
        assert set(self.eye.workers()) == set(self.leases)
        assert self.eye.samples() == self.samples
        put = {("noop", State.QUEUED): len(self.jobs)} if self.jobs else {}
        assert self.eye.tally() == put | {("noop", state): n for state, n in states.items() if state.ended}


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
