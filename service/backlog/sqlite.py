"""The durable default: one SQLite file that every producer on this machine shares, also those in other containers.

Every transition is one guarded statement.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from service.backlog import sql
from service.backlog.base import AGEING, BITE, COUNTED, KEY_KEPT, NO_PACKS, PROMOTED, SCAN, Backlog, Page
from service.backlog.store import Store
from service.errors import BacklogFull, StoreError, StoreFull
from service.job import REQUEUED_FROM, Callback, Claim, Job, Listed, Receipt, Record, Running, Settlement, State
from service.pace import fitting, pack

LOOK = 100 * BITE  # jobs that a claim looks at beyond those that it wants
CLAIM_BYTES = 4 << 20  # of arguments in one claim, where it takes more jobs than slots
LATE = 1.0  # seconds for which a worker that was late believes others to be late too: they ask again meanwhile


class Stale(Exception):
    """One of these settlements is somebody else's."""


class SqliteBacklog(Store, Backlog):
    durability = "fsync"
    _late = -math.inf  # when our own lease had ended before we renewed it

    def put(self, jobs: Sequence[Job]) -> list[Receipt | StoreError]:
        with self._own_batch():
            refusal = self._refusal()
            receipts: list[Receipt | StoreError] = []
            for priority, of_one in groupby(jobs, lambda job: job.priority):
                ahead = self._ahead(priority)
                for alone, group in groupby(of_one, _is_put_alone):
                    for part in ([job] for job in group) if alone else [list(group)]:
                        known = self._known(part[0])
                        came = [known] if known else self._put(part, refusal, ahead)
                        ahead += sum(isinstance(it, Receipt) and it.position is not None for it in came)
                        receipts += came
            return receipts

    def _put(self, jobs: list[Job], refusal: StoreError | None, ahead: int) -> list[Receipt | StoreError]:
        taken = [] if refusal else jobs[: max(self._bounds.backlog_max - self._queued(), 0)]
        here = self._insert(taken)
        receipts: list[Receipt | StoreError] = []
        for job in taken:
            new = job.id not in here
            here.add(job.id)
            due = new and not job.delay
            ahead += due
            receipts.append(Receipt(job.id, new, position=ahead if due else None))
        return receipts + [refusal or self._full()] * (len(jobs) - len(taken))

    def _insert(self, jobs: Sequence[Job]) -> set[str]:
        """Those that were here already, by id."""
        new = 0
        for part in sql.groups(len(jobs)):
            values = [value for job in jobs[part] for value in self._row(job)]
            self._db.execute(sql.put(len(jobs[part])), values)
            new += self._db.changes()
        for job in jobs:
            if job.key is not None:
                self._db.execute(sql.KEEP_KEY, (job.key, job.id, job.fingerprint, self._wall()))
        self._moved(new, None, State.QUEUED)
        here = self._here(jobs, new) if new < len(jobs) else set()
        names = Counter({job.id: job.name for job in jobs if job.id not in here}.values())
        self._db.executemany(sql.COUNT_PUTS, names.items())
        return here

    def _here(self, jobs: Sequence[Job], new: int) -> set[str]:
        before = self._db.execute(sql.NEWEST).get - new
        return {id for (id,) in self._db.execute(sql.HERE, (json.dumps([job.id for job in jobs]), before))}

    def _row(self, job: Job) -> tuple[Any, ...]:
        now = self._wall()
        told = (job.id, job.name, job.args.decode(), job.priority, job.timeout, job.attempts)
        times = (now, now + job.delay, self._rank(job))
        return *told, *times, *self._due(job.delay), *self._expires(job.expires_in, now), job.callback

    def refusal(self) -> StoreError | None:
        with self._own_batch():
            return self._refusal() or (self._full() if self._queued() >= self._bounds.backlog_max else None)

    def _full(self) -> BacklogFull:
        return BacklogFull(f"there are BACKLOG_MAX={self._bounds.backlog_max} queued jobs already")

    def _refusal(self) -> StoreFull | None:
        if not self._disk.low():
            return None
        return StoreFull(f"less than DISK_RESERVE={self._bounds.disk_reserve} bytes are free on the disk")

    def _queued(self) -> int:
        queued: int = self._db.execute("SELECT n FROM counts WHERE state = 'queued'").get or 0
        return queued + self._changes[State.QUEUED]

    def _known(self, job: Job) -> Receipt | None:
        if job.key is None:
            return None
        row: Any = self._db.execute(sql.KEY, (job.key, self._wall() - KEY_KEPT)).fetchone()
        if not row:
            return None
        id, fingerprint, state = row
        return Receipt(id, new=False, same=fingerprint == job.fingerprint, state=state and State(state))

    def _rank(self, job: Job) -> float:
        return self._now() + job.delay - AGEING * job.priority

    def _now(self) -> float:
        """The rank of what is due now: seconds since the epoch, but a step of the wall clock moves it only at a
        reboot."""
        return self._epoch + self._clock()

    def _due(self, delay: float) -> tuple[str | None, float | None]:
        return (self._boot, self._clock() + delay) if delay else (None, None)

    def _expires(self, within: float | None, now: float) -> tuple[str | None, float | None, float | None]:
        return (None, None, None) if within is None else (self._boot, self._clock() + within, now + within)

    def _ahead(self, priority: int) -> int:
        """How many can start before what is put now, at most."""
        ahead: int = self._db.execute(sql.AHEAD, (self._now() - AGEING * priority, COUNTED)).get
        return ahead if ahead < COUNTED else self._queued()

    def claim(self, slots: int, worker: str, packs: Mapping[str, int] = NO_PACKS) -> list[Claim]:
        now, most = self._wall(), slots * max(packs.values(), default=1)
        with self._own_batch():
            values = {"clock": self._clock(), "most": most, "look": most + LOOK}
            first: list[Any] = json.loads(self._db.execute(sql.FIRST, values).get)
            if not first:
                return []
            taken = fitting([pack(name, crashes, losses, packs) for _, name, crashes, losses, _ in first], slots)
            while taken > slots and sum(row[4] for row in first[:taken]) > CLAIM_BYTES:
                taken = max(slots, taken // 2)
            seqs = json.dumps([row[0] for row in first[:taken]])
            rows: list[Any] = json.loads(self._db.execute(sql.TAKEN, {"seqs": seqs}).get)
            self._db.execute(sql.CLAIM, {"worker": worker, "now": now, "seqs": seqs})
            self._moved(self._db.changes(), State.QUEUED, State.RUNNING)
        rows.sort()
        return [_claim(row, now) for row in rows]

    def extend(self, worker: str, lease: float) -> bool:
        if self._presence.fileno() is None:
            self._presence.arrive(worker)
        with self._own_batch():
            until: float | None = self._db.execute("SELECT lease_until FROM workers WHERE worker = ?", (worker,)).get
            if until is not None and until < self._clock():
                self._late = self._clock()
            self._db.execute(
                "INSERT OR REPLACE INTO workers VALUES (?, ?, ?)", (worker, self._boot, self._clock() + lease)
            )
        return until is not None

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        with self._own_batch():
            return [done for part in sql.groups(len(settlements)) for done in self._settle(settlements[part])]

    def _settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        try:
            with self._db:  # a savepoint
                self._settle_all(settlements)
        except Stale:
            if len(settlements) == 1:
                return [False]
            return [done for settlement in settlements for done in self._settle([settlement])]
        return [True] * len(settlements)

    def _settle_all(self, settlements: Sequence[Settlement]) -> None:
        """Raises Stale where only some could be."""
        values = [self._wall(), self._clock(), self._boot]
        for s in settlements:
            told = (s.id, s.token, s.state, s.attempt, s.crashes)
            values += *told, s.result and s.result.decode(), s.error and s.error.decode(), s.entry.decode(), s.delay
        self._db.execute(sql.settle(len(settlements)), values)
        if self._db.changes() < len(settlements):
            raise Stale
        for s in settlements:
            self._moved(1, State.RUNNING, s.state)
        if any(s.state == State.QUEUED for s in settlements):
            self._cancel_returned()

    def _cancel_returned(self) -> None:
        values = {"state": State.CANCELLED, "reason": "somebody asked for its end while it ran", "now": self._wall()}
        self._db.execute(sql.CANCEL_RETURNED, values)
        self._moved(self._db.changes(), State.QUEUED, State.CANCELLED)

    def sweep(self, sweeper: str) -> int:
        now = {"boot": self._boot, "clock": self._clock()}
        with self._own_batch():
            self._db.execute(sql.PROMOTE, now | {"most": PROMOTED})
            promoted = self._db.changes()
            lost = sum(self._lost(worker, "its producer died") for worker in self._presence.dead())
            expired = [worker for (worker,) in self._db.execute(sql.EXPIRED, now)]
            if sweeper in expired or self._clock() < self._late + LATE:
                expired = []
            lost += sum(self._lost(worker, "its producer hung beyond its lease") for worker in expired)
            return promoted + lost

    def expire(self) -> bool:
        values = {
            "state": State.EXPIRED,
            "reason": "not started by its deadline",
            "now": self._wall(),
            "boot": self._boot,
            "clock": self._clock(),
            "bite": BITE,
        }
        with self._own_batch():
            self._db.execute(sql.EXPIRE, values)
            expired = self._db.changes()
            self._moved(expired, State.QUEUED, State.EXPIRED)
        return expired == BITE

    def cancel(self, id: str) -> State | None:
        with self._own_batch():
            found = self._state(id)
            if found == State.QUEUED:
                values = {
                    "id": id,
                    "state": State.CANCELLED,
                    "reason": "somebody asked for its end",
                    "now": self._wall(),
                }
                self._db.execute(sql.CANCEL, values)
                self._moved(1, State.QUEUED, State.CANCELLED)
            elif found == State.RUNNING:
                self._db.execute(sql.ASK_TO_CANCEL, (id,))
        return found

    def _state(self, id: str) -> State | None:
        state = self._db.execute("SELECT state FROM jobs WHERE id = ?", (id,)).get
        return None if state is None else State(state)

    def cancelling(self, worker: str) -> list[tuple[str, int]]:
        rows: list[tuple[str, int]] = self._read(sql.CANCELLING, worker)
        return rows

    def requeue(self, id: str) -> State | StoreError | None:
        with self._own_batch():
            found = self._state(id)
            if found in REQUEUED_FROM:
                if no_room := self.refusal():
                    return no_room
                self._db.execute(sql.REQUEUE_ONE, {"id": id} | self._requeued())
                self._moved(1, found, State.QUEUED)
        return found

    def _requeued(self) -> dict[str, Any]:
        return {"reason": "somebody asked for it", "now": self._wall(), "rank": self._now()}

    def requeue_many(self, state: State, name: str | None, before: float) -> int | StoreError:
        with self._own_batch():
            if no_room := self.refusal():
                return no_room
            room = self._bounds.backlog_max - self._queued()
            values = {"state": state, "name": name, "before": before, "bite": min(BITE, room)}
            self._db.execute(sql.REQUEUE_MANY[name is not None], values | self._requeued())
            requeued = self._db.changes()
            self._moved(requeued, state, State.QUEUED)
        return requeued

    def claim_callbacks(self, limit: int, worker: str) -> list[Callback]:
        with self._own_batch():
            rows: list[Any] = self._db.execute(sql.DUE_CALLBACKS, {"clock": self._clock(), "limit": limit}).fetchall()
            if rows:
                self._db.execute(sql.CLAIM_CALLBACKS, (worker, json.dumps([row[0] for row in rows])))
        return [_callback(*row) for row in rows]

    def settle_callback(self, callback: Callback, worker: str, again: float | None, error: str | None) -> None:
        state = "delivered" if error is None else "pending" if again is not None else "failed"
        values = {
            "place": callback.place,
            "worker": worker,
            "tries": callback.tries,
            "state": state,
            "error": error,
            "due": self._clock() + (again or 0.0),
        }
        with self._own_batch():
            self._db.execute(sql.SETTLE_CALLBACK, values)

    def prune(self) -> bool:
        self._disk.restore()
        with self._own_batch():
            excess = max(self._db.execute(sql.ENDED_HERE).get - self._bounds.keep_max, 0)
            if excess:
                excess = max(excess - self._db.execute(sql.TELLING).get, 0)
            values = {
                "before": math.inf if excess else self._wall() - self._bounds.keep,
                "bite": min(excess or BITE, BITE),
            }
            rows: list[Any] = self._db.execute(sql.PRUNE, values).fetchall()
            self._db.execute(sql.PRUNE_KEYS, (self._wall() - KEY_KEPT, BITE))
            keys = self._db.changes()
            for state, _ in rows:
                self._changes[state] -= 1
            if rows:
                self._changes["removed"] += len(rows)
                self._db.execute(sql.MARK_REMOVED, (max(id for _, id in rows),))
        return BITE in (len(rows), keys)

    def publish(self, samples: Mapping[str, int]) -> None:
        with self._own_batch():
            self._db.executemany(sql.PUBLISH, samples.items())

    def leave(self, worker: str) -> None:
        with self._own_batch():
            self._lost(worker, "its producer ended")
        self._presence.leave()

    def _lost(self, worker: str, reason: str) -> int:
        self._db.execute(sql.LOST, {"worker": worker, "reason": reason, "now": self._wall()})
        lost = self._db.changes()
        self._db.execute(sql.RELEASE_CALLBACKS, {"worker": worker})
        self._db.execute("DELETE FROM workers WHERE worker = ?", (worker,))
        self._moved(lost, State.RUNNING, State.QUEUED)
        if lost:
            self._cancel_returned()
        return lost

    def get(self, id: str) -> Record | None:
        rows = self._read(sql.GET, id)
        if not rows:
            return None
        (row,) = rows
        id, name, args, timeout, attempts, priority = row[:6]
        state, attempt, version, created_at, run_at, expires_at, started_at, finished_at = row[6:14]
        result, error, history, callback = row[14:]
        return Record(
            Job(id, name, args.encode(), timeout, attempts, priority),
            State(state),
            attempt,
            version,
            created_at,
            run_at,
            expires_at,
            started_at,
            finished_at,
            result and result.encode(),
            error and error.encode(),
            history.encode(),
            callback and callback.encode(),
        )

    def page(self, state: State | None, name: str | None, before: int | None, limit: int) -> Page:
        before = before or sys.maxsize
        values = {"state": state, "name": name, "before": before, "limit": limit}
        indexed = sql.LIST_INDEXED.get((state or "", name is not None))
        floor = 0 if indexed else self._floor(before)
        rows = self._read(indexed or sql.LIST, values if indexed else values | {"floor": floor})
        return Page([_listed(*row) for row in rows], rows[-1][0] if len(rows) == limit else floor or None)

    def _floor(self, before: int) -> int:
        """The place of the last of the SCAN jobs before this one, 0 when there are fewer."""
        rows = self._read(sql.FLOOR, before, SCAN - 1)
        return int(rows[0][0]) if rows else 0

    def versions(self, ids: Sequence[str]) -> dict[str, int]:
        return dict(self._read(sql.VERSIONS, json.dumps(ids)))

    def removed(self, id: str) -> bool:
        return (1,) in self._read("SELECT value >= ? FROM marks WHERE name = 'removed'", id)

    def ended(self) -> int:
        ((ended,),) = self._read(sql.ENDED)
        return int(ended)

    def counts(self) -> dict[State, int]:
        rows = self._read("SELECT state, n FROM counts WHERE state <> 'removed'")
        return {state: 0 for state in State} | {State(state): n for state, n in rows}

    def oldest(self) -> float | None:
        oldest: float | None
        ((oldest,),) = self._read(sql.OLDEST)
        return oldest

    def running(self) -> list[Running]:
        rows = self._read(sql.RUNNING)
        return [Running(*row) for row in rows]

    def workers(self) -> list[str]:
        rows = self._read("SELECT worker FROM workers ORDER BY worker")
        return [worker for (worker,) in rows]

    def samples(self) -> dict[str, int]:
        return dict(self._read("SELECT sample, n FROM samples"))

    def tally(self) -> dict[tuple[str, State], int]:
        return {(name, State(state)): n for name, state, n in self._read("SELECT name, state, n FROM tally")}


def _listed(seq: int, id: str, name: str, state: str, *rest: Any) -> Listed:
    return Listed(id, name, State(state), *rest)


def _claim(row: list[Any], now: float) -> Claim:
    _, _, id, name, args, timeout, attempts, priority, token, attempt, crashes, losses, run_at = row
    job = Job(id, name, args.encode(), timeout, attempts, priority)
    return Claim(job, token, attempt, crashes, losses, now, max(0.0, now - run_at))


def _callback(place: int, job: str, version: int, url: str, tries: int, name: str, state: str, *end: Any) -> Callback:
    attempt, finished_at, result, error = end
    told = attempt, finished_at, result and result.encode(), error and error.encode()
    return Callback(place, job, version, url, tries, name, State(state), *told)


def _is_put_alone(job: Job) -> bool:
    """What has to ask what is in the store, also of those before it."""
    return job.key is not None
