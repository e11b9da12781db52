"""The contract at its plainest: one process, lost at exit. The reference for the tests."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import msgspec

from service import linux
from service.backlog.base import KEY_KEPT, UNBOUNDED, Backlog, Bounds
from service.errors import BacklogFull, StoreError
from service.job import HISTORY_MAX, Claim, Job, Receipt, Record, Running, Settlement, State, stamp

LATE = 1.0  # seconds, see sqlite


@dataclass(slots=True)
class Row:
    job: Job
    created_at: float
    run_at: float
    state: State = State.QUEUED
    due: float | None = None  # the clock of this boot; None: can be claimed
    attempt: int = 0
    crashes: int = 0
    losses: int = 0
    token: int = 0
    worker: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    result: bytes | None = None
    error: bytes | None = None
    history: list[bytes] = field(default_factory=list)


class MemoryBacklog(Backlog):
    durability = "memory"

    def __init__(
        self,
        clock: Callable[[], float] = linux.clock,
        wall: Callable[[], float] = time.time,
        bounds: Bounds = UNBOUNDED,
    ) -> None:
        self._bounds, self._clock, self._wall = bounds, clock, wall
        self._removed, self._removed_until = 0, ""
        self._late = -math.inf
        self._rows: dict[str, Row] = {}
        self._leases: dict[str, float] = {}
        self._keys: dict[str | None, tuple[str, bytes, float]] = {}
        self._before: dict[str, Row | None] = {}  # as the rows were when the batch began

    @contextmanager
    def batch(self) -> Iterator[None]:
        leases, keys, removed = dict(self._leases), dict(self._keys), (self._removed, self._removed_until)
        self._before.clear()
        try:
            yield
        except BaseException:
            self._leases, self._keys = leases, keys
            self._removed, self._removed_until = removed
            for id, row in self._before.items():
                if row:
                    self._rows[id] = row
                else:
                    self._rows.pop(id, None)
            raise

    def _touch(self, row: Row) -> None:
        self._before.setdefault(row.job.id, replace(row, history=list(row.history)))

    def put(self, jobs: Sequence[Job]) -> list[Receipt | StoreError]:
        queued = self.counts()[State.QUEUED]
        receipts = []
        for job in jobs:
            receipts.append(receipt := self._put(job, queued))
            queued += isinstance(receipt, Receipt) and receipt.new
        return receipts

    def _put(self, job: Job, queued: int) -> Receipt | StoreError:
        now = self._wall()
        if job.key in self._keys and self._keys[job.key][2] > now - KEY_KEPT:
            id, fingerprint, _ = self._keys[job.key]
            return Receipt(id, new=False, same=fingerprint == job.fingerprint)
        if queued >= self._bounds.backlog_max:
            return BacklogFull("there are BACKLOG_MAX queued jobs already")
        if job.id in self._rows:
            return Receipt(job.id, new=False)
        self._before.setdefault(job.id, None)
        self._rows[job.id] = Row(replace(job, key=None, fingerprint=b""), now, now)
        if job.key is not None:
            self._keys[job.key] = (job.id, job.fingerprint, now)
        return Receipt(job.id)

    def claim(self, limit: int, worker: str) -> list[Claim]:
        ready = sorted(self._ready(), key=lambda row: -row.job.priority)
        return [self._claim(row, worker) for row in ready[:limit]]

    def _ready(self) -> list[Row]:
        return [row for row in list(self._rows.values()) if row.state == State.QUEUED and row.due is None]

    def _claim(self, row: Row, worker: str) -> Claim:
        self._touch(row)
        row.state, row.worker, row.started_at = State.RUNNING, worker, self._wall()
        row.attempt += 1
        row.token += 1
        return Claim(row.job, row.token, row.attempt, row.crashes, row.losses, row.started_at)

    def extend(self, worker: str, lease: float) -> bool:
        kept = worker in self._leases
        if kept and self._leases[worker] < self._clock():
            self._late = self._clock()
        self._leases[worker] = self._clock() + lease
        return kept

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return [self._settle(settlement) for settlement in settlements]

    def _settle(self, s: Settlement) -> bool:
        row = self._rows.get(s.id)
        if row is None or row.state != State.RUNNING or row.token != s.token:
            return False
        self._touch(row)
        row.state, row.attempt, row.crashes, row.worker = s.state, s.attempt, s.crashes, None
        row.result, row.error = s.result, s.error
        self._note(row, s.entry)
        if s.state == State.QUEUED:
            row.run_at = self._wall() + s.delay
            row.due = self._clock() + s.delay if s.delay else None
        else:
            row.finished_at = self._wall()
        return True

    def _note(self, row: Row, entry: bytes) -> None:
        row.history = [*row.history, entry][-HISTORY_MAX:]

    def sweep(self, sweeper: str) -> int:
        now = self._clock()
        due = [row for row in list(self._rows.values()) if row.due is not None and row.due <= now]
        for row in due:
            self._touch(row)
            row.due = None
        expired = [worker for worker, until in self._leases.items() if until < now]
        if sweeper in expired or now < self._late + LATE:
            expired = []
        return len(due) + sum(self._lost(worker, "its producer hung beyond its lease") for worker in expired)

    def prune(self) -> bool:
        ended = sorted((row.finished_at, row.job.id) for row in self._rows.values() if row.finished_at is not None)
        excess = len(ended) - self._bounds.keep_max
        before = self._wall() - self._bounds.keep
        self._keys = {key: used for key, used in self._keys.items() if used[2] > self._wall() - KEY_KEPT}
        for place, (finished_at, id) in enumerate(ended):
            if finished_at < before or place < excess:
                self._before.setdefault(id, self._rows.pop(id))
                self._removed += 1
                self._removed_until = max(self._removed_until, id)
        return False

    def leave(self, worker: str) -> None:
        self._lost(worker, "its producer ended")

    def _lost(self, worker: str, reason: str) -> int:
        self._leases.pop(worker, None)
        held = [row for row in list(self._rows.values()) if row.worker == worker]
        for row in held:
            self._touch(row)
            entry = {
                "attempt": row.attempt,
                "worker": worker,
                "started_at": stamp(row.started_at or 0.0),
                "finished_at": stamp(self._wall()),
                "outcome": "lost",
                "reason": reason,
                "cpu_seconds": None,
            }
            self._note(row, msgspec.json.encode(entry))
            row.state, row.worker, row.attempt = State.QUEUED, None, row.attempt - 1
            row.losses += 1
        return len(held)

    def get(self, id: str) -> Record | None:
        row = self._rows.get(id)
        if row is None:
            return None
        return Record(
            row.job,
            row.state,
            row.attempt,
            row.created_at,
            row.run_at,
            row.started_at,
            row.finished_at,
            row.result,
            row.error,
            b"[" + b",".join(row.history) + b"]",
        )

    def removed(self, id: str) -> bool:
        return id <= self._removed_until

    def ended(self) -> int:
        return self._removed + sum(row.finished_at is not None for row in list(self._rows.values()))

    def counts(self) -> dict[State, int]:
        return {state: 0 for state in State} | Counter(row.state for row in list(self._rows.values()))

    def oldest(self) -> float | None:
        return min((row.created_at for row in self._ready()), default=None)

    def running(self) -> list[Running]:
        return [
            Running(row.worker, row.job.id, row.job.name, row.started_at or 0.0)
            for row in list(self._rows.values())
            if row.worker is not None
        ]

    def workers(self) -> list[str]:
        return sorted(self._leases)

    def log_bytes(self) -> int:
        return 0

    def wake_fd(self) -> int | None:
        return None

    def wake_others(self) -> None:
        """There are none."""

    def close(self) -> None:
        self._rows.clear()
