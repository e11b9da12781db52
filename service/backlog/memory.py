"""The contract at its plainest: one process, lost at exit. The reference for the tests."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import msgspec
from msgspec import structs

from service import linux
from service.backlog.base import AGEING, KEY_KEPT, NO_PACKS, UNBOUNDED, Backlog, Bounds, Page
from service.errors import BacklogFull, StoreError
from service.job import (
    HISTORY_MAX,
    REQUEUED_FROM,
    Callback,
    Claim,
    Job,
    Listed,
    Receipt,
    Record,
    Running,
    Settlement,
    State,
    stamp,
)
from service.pace import fitting, pack

LATE = 1.0  # seconds, see sqlite


@dataclass(frozen=True, slots=True)
class Told:
    """How far the callback of an end has come."""

    place: int
    version: int
    state: str = "pending"
    tries: int = 0
    worker: str | None = None
    due: float = 0.0
    error: str | None = None


@dataclass(slots=True)
class Row:
    job: Job
    seq: int
    created_at: float
    run_at: float
    rank: float
    expires: float | None = None  # on the clock of this boot
    expires_at: float | None = None
    cancel: bool = False
    url: str | None = None  # that is told of its end
    callback: Told | None = None
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
        self._removed_until = ""
        self._late = -math.inf
        self._places = 0
        self._seq, self._epoch = 0, wall() - clock()
        self._rows: dict[str, Row] = {}
        self._leases: dict[str, float] = {}
        self._keys: dict[str | None, tuple[str, bytes, float]] = {}
        self._samples: dict[str, int] = {}
        self._tally: Counter[tuple[str, State]] = Counter()
        self._before: dict[str, Row | None] = {}  # as the rows were when the batch began

    @contextmanager
    def batch(self) -> Iterator[None]:
        leases, keys, removed = dict(self._leases), dict(self._keys), self._removed_until
        samples, tally = self._samples, self._tally.copy()
        self._before.clear()
        try:
            yield
        except BaseException:
            self._leases, self._keys = leases, keys
            self._removed_until = removed
            self._samples, self._tally = samples, tally
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
        now, run_at = self._wall(), self._wall() + job.delay
        if job.key in self._keys and self._keys[job.key][2] > now - KEY_KEPT:
            id, fingerprint, _ = self._keys[job.key]
            known = self._rows.get(id)
            state = known.state if known else None
            return Receipt(id, new=False, same=fingerprint == job.fingerprint, state=state)
        if queued >= self._bounds.backlog_max:
            return self._full()
        if job.id in self._rows:
            return Receipt(job.id, new=False)
        self._before.setdefault(job.id, None)
        self._seq += 1
        plain = structs.replace(job, key=None, fingerprint=b"", delay=0.0, expires_in=None, callback=None)
        row = Row(plain, self._seq, now, run_at, self._rank(job) + job.delay)
        row.url = job.callback
        position = None if job.delay else 1 + sum(other.rank <= row.rank for other in self._ready())
        if job.delay:
            row.due = self._clock() + job.delay
        if job.expires_in is not None:
            row.expires, row.expires_at = self._clock() + job.expires_in, now + job.expires_in
        self._rows[job.id] = row
        self._tally[job.name, State.QUEUED] += 1
        if job.key is not None:
            self._keys[job.key] = (job.id, job.fingerprint, now)
        return Receipt(job.id, position=position)

    def _rank(self, job: Job) -> float:
        return self._epoch + self._clock() - AGEING * job.priority

    def _full(self) -> BacklogFull:
        return BacklogFull(f"there are BACKLOG_MAX={self._bounds.backlog_max} queued jobs already")

    def refusal(self) -> StoreError | None:
        return self._full() if self.counts()[State.QUEUED] >= self._bounds.backlog_max else None

    def claim(self, slots: int, worker: str, packs: Mapping[str, int] = NO_PACKS) -> list[Claim]:
        ready = [row for row in self._ready() if row.expires is None or row.expires > self._clock()]
        ready.sort(key=lambda row: (row.rank, row.seq))
        taken = fitting([pack(row.job.name, row.crashes, row.losses, packs) for row in ready], slots)
        return [self._claim(row, worker) for row in ready[:taken]]

    def _ready(self) -> list[Row]:
        return [row for row in list(self._rows.values()) if row.state == State.QUEUED and row.due is None]

    def _claim(self, row: Row, worker: str) -> Claim:
        self._touch(row)
        row.state, row.worker, row.started_at = State.RUNNING, worker, self._wall()
        row.attempt += 1
        row.token += 1
        row.expires = None
        waited = max(0.0, row.started_at - row.run_at)
        return Claim(row.job, row.token, row.attempt, row.crashes, row.losses, row.started_at, waited)

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
        row.token += 1
        row.result, row.error = s.result, s.error
        self._note(row, s.entry)
        if s.state == State.QUEUED:
            row.run_at = self._wall() + s.delay
            row.due = self._clock() + s.delay if s.delay else None
            self._cancel_returned(row)
        else:
            row.finished_at, row.cancel = self._wall(), False
            self._call_back(row)
            self._tally[row.job.name, s.state] += 1
        return True

    def _call_back(self, row: Row) -> None:
        if row.url is not None:
            self._places += 1
            row.callback = Told(self._places, row.token)

    def _cancel_returned(self, row: Row) -> None:
        if row.cancel:
            self._end_unrun(row, State.CANCELLED, "somebody asked for its end while it ran")

    def _end_unrun(self, row: Row, state: State, reason: str) -> None:
        self._touch(row)
        self._note_unrun(row, state, state, reason)
        row.state, row.finished_at, row.cancel = state, self._wall(), False
        row.due = row.expires = None
        self._call_back(row)
        self._tally[row.job.name, state] += 1

    def _note_unrun(self, row: Row, outcome: str, state: State, reason: str) -> None:
        row.token += 1
        self._note(row, self._entry(row, None, outcome, reason, state))

    def _entry(self, row: Row, worker: str | None, outcome: str, reason: str, state: State) -> bytes:
        """For what no slot has come to; `row` has its new version already."""
        entry = {
            "attempt": row.attempt,
            "worker": worker,
            "started_at": stamp(row.started_at) if worker and row.started_at is not None else None,
            "finished_at": stamp(self._wall()),
            "outcome": outcome,
            "reason": reason,
            "cpu_seconds": None,
            "max_rss_bytes": None,
            "output": None,
            "state": state,
            "version": row.token,
        }
        return msgspec.json.encode(entry)

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

    def expire(self) -> bool:
        for row in list(self._rows.values()):
            if row.state == State.QUEUED and row.expires is not None and row.expires <= self._clock():
                self._end_unrun(row, State.EXPIRED, "not started by its deadline")
        return False

    def cancel(self, id: str) -> State | None:
        row = self._rows.get(id)
        if row is None:
            return None
        found = row.state
        if found == State.QUEUED:
            self._end_unrun(row, State.CANCELLED, "somebody asked for its end")
        elif found == State.RUNNING:
            self._touch(row)
            row.cancel = True
        return found

    def cancelling(self, worker: str) -> list[tuple[str, int]]:
        return [(row.job.id, row.token) for row in list(self._rows.values()) if row.worker == worker and row.cancel]

    def requeue(self, id: str) -> State | StoreError | None:
        row = self._rows.get(id)
        if row is None:
            return None
        if row.state not in REQUEUED_FROM:
            return row.state
        if self.counts()[State.QUEUED] >= self._bounds.backlog_max:
            return self._full()
        found = row.state
        self._requeue(row)
        return found

    def _requeue(self, row: Row) -> None:
        self._touch(row)
        self._note_unrun(row, "requeued", State.QUEUED, "somebody asked for it")
        row.state, row.finished_at, row.cancel, row.result, row.error = State.QUEUED, None, False, None, None
        row.callback = None
        row.attempt = row.crashes = row.losses = 0
        row.started_at = row.expires_at = None
        row.run_at = self._wall()
        row.rank = self._rank(row.job)

    def requeue_many(self, state: State, name: str | None, before: float) -> int | StoreError:
        room = self._bounds.backlog_max - self.counts()[State.QUEUED]
        if room <= 0:
            return self._full()
        rows = [row for row in self._rows.values() if row.state == state and (row.finished_at or before) < before]
        rows = [row for row in rows if name in (None, row.job.name)][:room]
        for row in rows:
            self._requeue(row)
        return len(rows)

    def claim_callbacks(self, limit: int, worker: str) -> list[Callback]:
        due = [
            (told.due, told.place, row)
            for row in self._rows.values()
            if (told := row.callback) and told.state == "pending" and not told.worker and told.due <= self._clock()
        ]
        return [self._claim_callback(row, worker) for _, _, row in sorted(due, key=lambda it: it[:2])[:limit]]

    def _claim_callback(self, row: Row, worker: str) -> Callback:
        self._touch(row)
        assert row.callback
        assert row.url
        assert row.finished_at is not None
        row.callback = told = replace(row.callback, worker=worker, tries=row.callback.tries + 1)
        end = row.state, row.attempt, row.finished_at, row.result, row.error
        return Callback(told.place, row.job.id, told.version, row.url, told.tries, row.job.name, *end)

    def settle_callback(self, callback: Callback, worker: str, again: float | None, error: str | None) -> None:
        row = self._rows.get(callback.job)
        told = row and row.callback
        if row and told and (told.place, told.worker, told.tries) == (callback.place, worker, callback.tries):
            self._touch(row)
            state = "delivered" if error is None else "pending" if again is not None else "failed"
            due = self._clock() + (again or 0.0)
            row.callback = replace(told, worker=None, state=state, due=due, error=error)

    def prune(self) -> bool:
        ended = [row for row in self._rows.values() if row.finished_at is not None]
        told = [row for row in ended if not (row.callback and row.callback.state == "pending")]
        excess = len(told) - self._bounds.keep_max
        before = self._wall() - self._bounds.keep
        self._keys = {key: used for key, used in self._keys.items() if used[2] > self._wall() - KEY_KEPT}
        for place, (finished_at, id) in enumerate(sorted((row.finished_at or 0.0, row.job.id) for row in told)):
            if finished_at < before or place < excess:
                self._before.setdefault(id, self._rows.pop(id))
                self._removed_until = max(self._removed_until, id)
        return False

    def publish(self, samples: Mapping[str, int]) -> None:
        # A new one: whoever reads has the old one, and so has a batch that fails.
        self._samples = self._samples | {sample: self._samples.get(sample, 0) + n for sample, n in samples.items()}

    def leave(self, worker: str) -> None:
        self._lost(worker, "its producer ended")

    def _lost(self, worker: str, reason: str) -> int:
        self._leases.pop(worker, None)
        for row in self._rows.values():
            if row.callback and row.callback.worker == worker:
                self._touch(row)
                row.callback = replace(row.callback, worker=None)
        held = [row for row in list(self._rows.values()) if row.worker == worker]
        for row in held:
            self._touch(row)
            row.token += 1
            self._note(row, self._entry(row, worker, "lost", reason, State.QUEUED))
            row.state, row.worker, row.attempt = State.QUEUED, None, row.attempt - 1
            row.losses += 1
            self._cancel_returned(row)
        return len(held)

    def get(self, id: str) -> Record | None:
        row = self._rows.get(id)
        if row is None:
            return None
        return Record(
            row.job,
            row.state,
            row.attempt,
            row.token,
            row.created_at,
            row.run_at,
            row.expires_at,
            row.started_at,
            row.finished_at,
            row.result,
            row.error,
            b"[" + b",".join(row.history) + b"]",
            self._shown(row),
        )

    def _shown(self, row: Row) -> bytes | None:
        if row.url is None:
            return None
        told = row.callback or Told(0, 0, "waiting")
        shown = {"url": row.url, "state": told.state, "tries": told.tries, "error": told.error}
        return msgspec.json.encode(shown)

    def page(self, state: State | None, name: str | None, before: int | None, limit: int) -> Page:
        rows = [row for row in reversed(list(self._rows.values())) if row.seq < (before or sys.maxsize)]
        rows = [row for row in rows if state in (None, row.state) and name in (None, row.job.name)][:limit]
        return Page([self._listed(row) for row in rows], rows[-1].seq if len(rows) == limit else None)

    def _listed(self, row: Row) -> Listed:
        job, error = row.job, msgspec.json.decode(row.error or b"null")
        if error:
            error = msgspec.json.encode({"type": error["type"], "message": error["message"][:200]})
        return Listed(
            job.id,
            job.name,
            row.state,
            job.priority,
            row.attempt,
            job.attempts,
            row.created_at,
            row.run_at,
            row.started_at,
            row.finished_at,
            error,
        )

    def versions(self, ids: Sequence[str]) -> dict[str, int]:
        return {id: self._rows[id].token for id in ids if id in self._rows}

    def removed(self, id: str) -> bool:
        return id <= self._removed_until

    def ended(self) -> int:
        return sum(n for (_, state), n in self._tally.copy().items() if state.ended)

    def counts(self) -> dict[State, int]:
        return {state: 0 for state in State} | Counter(row.state for row in list(self._rows.values()))

    def oldest(self) -> float | None:
        return min((row.run_at for row in self._ready()), default=None)

    def running(self) -> list[Running]:
        return [
            Running(row.worker, row.job.id, row.job.name, row.started_at or 0.0)
            for row in list(self._rows.values())
            if row.worker is not None
        ]

    def workers(self) -> list[str]:
        return sorted(self._leases)

    def samples(self) -> dict[str, int]:
        return self._samples

    def tally(self) -> dict[tuple[str, State], int]:
        return dict(self._tally)

    def log_bytes(self) -> int:
        return 0

    def wake_fd(self) -> int | None:
        return None

    def wake_others(self) -> None:
        """There are none."""

    def close(self) -> None:
        self._rows.clear()
