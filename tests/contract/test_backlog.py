"""The contract of service/backlog/base.py as tests, run by every engine. A new engine is one line in ENGINES."""

import json
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from service.backlog.base import UNBOUNDED, Backlog, Bounds
from service.backlog.memory import MemoryBacklog
from service.backlog.sqlite import SqliteBacklog
from service.errors import BacklogFull, StoreError
from service.job import HISTORY_MAX, REQUEUED_FROM, Callback, Claim, Job, Receipt, Record, Settlement, State, new_id

DAY = 86_400.0  # seconds
LEASE = 30.0  # seconds
ENDS = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED)


@dataclass
class Clocks:
    """Both clocks stand still until a test moves them."""

    boot: float = 1_000.0
    wall: float = 1_700_000_000.0

    def read_boot(self) -> float:
        return self.boot

    def read_wall(self) -> float:
        return self.wall

    def pass_time(self, seconds: float) -> None:
        self.boot += seconds
        self.wall += seconds


def open_memory(folder: Path, clocks: Clocks, bounds: Bounds = UNBOUNDED) -> Backlog:
    return MemoryBacklog(clocks.read_boot, clocks.read_wall, bounds)


def open_sqlite(folder: Path, clocks: Clocks, bounds: Bounds = UNBOUNDED) -> Backlog:
    return SqliteBacklog(str(folder / "backlog.db"), clocks.read_boot, clocks.read_wall, bounds)


ENGINES: dict[str, Callable[..., Backlog]] = {"memory": open_memory, "sqlite": open_sqlite}


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture(params=ENGINES)
def backlog(request: pytest.FixtureRequest, tmp_path: Path, clocks: Clocks) -> Iterator[Backlog]:
    opened = ENGINES[request.param](tmp_path, clocks)
    yield opened
    opened.close()


def a_job(id: str | None = None, priority: int = 0, attempts: int = 3) -> Job:
    return Job(id or new_id(), "sleep", b'{"job_id":7}', 60.0, attempts, priority)


def news(receipts: list[Receipt | StoreError]) -> list[bool]:
    """For each whether it is a new job."""
    return [isinstance(receipt, Receipt) and receipt.new for receipt in receipts]


def put_one(backlog: Backlog, **fields: Any) -> Job:
    job = a_job(**fields)
    assert news(backlog.put([job])) == [True]
    return job


def claim_one(backlog: Backlog, worker: str = "w1") -> Claim:
    (claim,) = backlog.claim(1, worker)
    return claim


def settlement(claim: Claim, state: State = State.SUCCEEDED, **fields: Any) -> Settlement:
    entry = json.dumps({"attempt": claim.attempt, "outcome": str(state)}).encode()
    return Settlement(claim.job.id, claim.token, state, claim.attempt, claim.crashes, entry, **fields)


def seen(backlog: Backlog, id: str) -> Record:
    record = backlog.get(id)
    assert record is not None
    return record


def history(backlog: Backlog, id: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(seen(backlog, id).history)
    return entries


# put and get


def test_a_job_that_was_put_is_queued_and_stands_as_it_was_put(backlog: Backlog, clocks: Clocks) -> None:
    job = put_one(backlog, priority=-7, attempts=5)
    assert backlog.get(job.id) == Record(
        job, State.QUEUED, 0, 0, clocks.wall, clocks.wall, None, None, None, None, None, history=b"[]"
    )


def test_the_same_id_again_is_not_a_second_job(backlog: Backlog) -> None:
    job = put_one(backlog)
    assert news(backlog.put([job, a_job(), replace(job, priority=9)])) == [False, True, False]
    assert backlog.counts()[State.QUEUED] == 2
    assert seen(backlog, job.id).job == job


def test_the_same_id_twice_in_one_put_is_one_job(backlog: Backlog) -> None:
    job = a_job()
    assert news(backlog.put([job, job])) == [True, False]
    assert backlog.counts()[State.QUEUED] == 1


def test_the_same_id_after_its_end_does_not_run_again(backlog: Backlog) -> None:
    job = put_one(backlog)
    backlog.settle([settlement(claim_one(backlog), result=b"1")])
    assert news(backlog.put([job])) == [False]
    assert backlog.claim(1, "w1") == []
    assert seen(backlog, job.id).state == State.SUCCEEDED


def test_an_unknown_id_is_none(backlog: Backlog) -> None:
    assert backlog.get(new_id()) is None


def test_arguments_come_back_byte_for_byte(backlog: Backlog) -> None:
    args = '{"text":"Grüße \\u0000 \U0001f30a","n":[1,2.5,null,true]}'.encode()
    job = replace(a_job(), args=args)
    backlog.put([job])
    assert seen(backlog, job.id).job.args == args
    assert claim_one(backlog).job == job


def test_nothing_put_is_nothing_done(backlog: Backlog) -> None:
    assert news(backlog.put([])) == []
    assert backlog.settle([]) == []
    assert sum(backlog.counts().values()) == 0


# claim


def test_claims_come_by_priority_then_oldest_first(backlog: Backlog) -> None:
    jobs = [a_job(priority=priority) for priority in (0, 5, -100, 5, 0, 100)]
    backlog.put(jobs)
    order = [jobs[n].id for n in (5, 1, 3, 0, 4, 2)]
    assert [claim.job.id for claim in backlog.claim(6, "w1")] == order


def test_no_more_is_claimed_than_was_asked_for(backlog: Backlog) -> None:
    backlog.put([a_job() for _ in range(3)])
    assert len(backlog.claim(2, "w1")) == 2
    assert len(backlog.claim(2, "w1")) == 1
    assert backlog.claim(2, "w1") == []
    assert backlog.claim(0, "w1") == []


def test_two_workers_never_get_the_same_job(backlog: Backlog) -> None:
    backlog.put([a_job() for _ in range(9)])
    claims = [claim for n in range(5) for claim in backlog.claim(2, f"w{n % 2}")]
    assert len({claim.job.id for claim in claims}) == len(claims) == 9


def test_of_short_jobs_a_claim_takes_several_for_each_slot_and_of_others_one(backlog: Backlog) -> None:
    jobs = [replace(a_job(), name=name) for name in ("long", *["short"] * 5, "long", "short")]
    backlog.put(jobs)
    packs = {"short": 3}
    assert [claim.job.id for claim in backlog.claim(2, "w", packs)] == [job.id for job in jobs[:4]]
    assert [claim.job.id for claim in backlog.claim(3, "w", packs)] == [job.id for job in jobs[4:]]
    assert backlog.claim(3, "w", packs) == []


def test_what_was_there_at_a_crash_or_a_loss_has_a_slot_to_itself(backlog: Backlog) -> None:
    backlog.put([a_job() for _ in range(3)])
    first = backlog.claim(1, "w")[0]
    backlog.settle([replace(settlement(first, State.QUEUED), crashes=1)])
    assert len(backlog.claim(1, "w", {first.job.name: 3})) == 1
    assert len(backlog.claim(1, "w", {first.job.name: 3})) == 2


def test_a_claim_counts_the_attempt_and_shows_as_running(backlog: Backlog, clocks: Clocks) -> None:
    job = put_one(backlog)
    clocks.pass_time(5)
    claim = claim_one(backlog, "w1")
    assert (claim.job, claim.attempt, claim.crashes, claim.started_at) == (job, 1, 0, clocks.wall)
    record = seen(backlog, job.id)
    assert (record.state, record.attempt, record.started_at) == (State.RUNNING, 1, clocks.wall)
    (running,) = backlog.running()
    assert (running.worker, running.id, running.name, running.started_at) == ("w1", job.id, "sleep", clocks.wall)


def test_a_job_that_comes_back_keeps_its_place(backlog: Backlog) -> None:
    first, _ = put_one(backlog), put_one(backlog)
    backlog.settle([settlement(claim_one(backlog), State.QUEUED)])
    assert claim_one(backlog).job == first


# settle, and the fencing token


@pytest.mark.parametrize("state", ENDS)
def test_a_settled_job_has_ended_with_what_was_recorded(backlog: Backlog, clocks: Clocks, state: State) -> None:
    job = put_one(backlog)
    claim = claim_one(backlog)
    clocks.pass_time(2)
    error = None if state == State.SUCCEEDED else b'{"type":"E"}'
    result = b'{"n":1}' if state == State.SUCCEEDED else None
    assert backlog.settle([settlement(claim, state, result=result, error=error)]) == [True]
    record = seen(backlog, job.id)
    assert (record.state, record.attempt, record.result, record.error) == (state, 1, result, error)
    assert (record.started_at, record.finished_at) == (clocks.wall - 2, clocks.wall)
    assert history(backlog, job.id) == [{"attempt": 1, "outcome": str(state)}]
    assert backlog.counts()[state] == 1
    assert backlog.running() == []


@pytest.mark.parametrize("state", [*ENDS, State.QUEUED])
def test_what_was_settled_cannot_be_settled_again(backlog: Backlog, state: State) -> None:
    put_one(backlog)
    claim = claim_one(backlog)
    assert backlog.settle([settlement(claim, state)]) == [True]
    assert backlog.settle([settlement(claim, State.FAILED)]) == [False]
    assert backlog.counts()[state] == 1


def test_a_stale_token_is_refused_after_the_job_was_claimed_again(backlog: Backlog) -> None:
    job = put_one(backlog)
    old = claim_one(backlog, "w1")
    backlog.settle([settlement(old, State.QUEUED)])
    new = claim_one(backlog, "w1")
    assert new.token != old.token
    assert backlog.settle([settlement(old, State.FAILED), settlement(new, result=b"2")]) == [False, True]
    assert seen(backlog, job.id).result == b"2"


def test_a_lost_lease_cannot_be_settled(backlog: Backlog, clocks: Clocks) -> None:
    job = put_one(backlog)
    backlog.extend("w1", LEASE)
    late = claim_one(backlog, "w1")
    clocks.pass_time(LEASE + 1)
    assert backlog.sweep("sweeper") == 1
    assert backlog.settle([settlement(late)]) == [False]
    assert seen(backlog, job.id).state == State.QUEUED
    again = claim_one(backlog, "w2")
    assert backlog.settle([settlement(late)]) == [False]
    assert backlog.settle([settlement(again, result=b"2")]) == [True]
    assert seen(backlog, job.id).result == b"2"


def test_one_stale_settlement_does_not_spoil_its_neighbours(backlog: Backlog) -> None:
    backlog.put([a_job(), a_job()])
    one, two = backlog.claim(2, "w1")
    assert backlog.settle([replace(settlement(one), token=one.token + 1), settlement(two)]) == [False, True]
    assert backlog.counts() == {state: 0 for state in State} | {State.RUNNING: 1, State.SUCCEEDED: 1}


def test_a_settlement_of_an_unknown_job_is_refused(backlog: Backlog) -> None:
    claim = Claim(a_job(), 1, 1, 0, 0, 0.0)
    assert backlog.settle([settlement(claim)]) == [False]


def test_crashes_are_counted_across_attempts(backlog: Backlog) -> None:
    put_one(backlog)
    backlog.settle([replace(settlement(claim_one(backlog), State.QUEUED), crashes=1)])
    claim = claim_one(backlog)
    assert (claim.attempt, claim.crashes) == (2, 1)


def test_an_attempt_that_does_not_count_is_numbered_again(backlog: Backlog) -> None:
    put_one(backlog)
    claim = claim_one(backlog)
    backlog.settle([replace(settlement(claim, State.QUEUED), attempt=claim.attempt - 1)])
    assert claim_one(backlog).attempt == 1


# retries and the clocks


def test_a_retry_cannot_be_claimed_before_its_time(backlog: Backlog, clocks: Clocks) -> None:
    job = put_one(backlog)
    backlog.settle([settlement(claim_one(backlog), State.QUEUED, delay=10.0, error=b"{}")])
    record = seen(backlog, job.id)
    assert (record.state, record.run_at, record.finished_at) == (State.QUEUED, clocks.wall + 10, None)
    for _ in range(2):
        assert backlog.sweep("sweeper") == 0
        assert backlog.claim(1, "w1") == []
        clocks.pass_time(4.9)
    clocks.pass_time(0.2)
    assert backlog.sweep("sweeper") == 1
    assert claim_one(backlog).attempt == 2


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_a_step_of_the_wall_clock_moves_no_retry_and_no_lease(backlog: Backlog, clocks: Clocks, step: float) -> None:
    put_one(backlog), put_one(backlog)
    backlog.extend("w1", LEASE)
    retried, _held = backlog.claim(2, "w1")
    backlog.settle([settlement(retried, State.QUEUED, delay=10.0)])
    clocks.wall += step
    assert backlog.sweep("sweeper") == 0
    assert backlog.claim(2, "w1") == []
    clocks.boot += 11
    assert backlog.sweep("sweeper") == 1  # the retry, and not what the lease holds
    clocks.boot += LEASE - 10
    assert backlog.sweep("sweeper") == 1


def test_a_retry_does_not_count_as_waiting_to_be_claimed(backlog: Backlog, clocks: Clocks) -> None:
    put_one(backlog)
    backlog.settle([settlement(claim_one(backlog), State.QUEUED, delay=10.0)])
    assert backlog.oldest() is None


def test_oldest_is_the_job_that_waits_longest_whatever_its_priority(backlog: Backlog, clocks: Clocks) -> None:
    assert backlog.oldest() is None
    put_one(backlog, priority=-5)
    put_at = clocks.wall
    clocks.pass_time(60)
    put_one(backlog, priority=5)
    assert backlog.oldest() == put_at


# leases


def test_sweep_requeues_what_an_expired_lease_held_without_counting_the_attempt(
    backlog: Backlog, clocks: Clocks
) -> None:
    job = put_one(backlog)
    backlog.extend("w1", LEASE)
    claim_one(backlog, "w1")
    clocks.pass_time(LEASE + 1)
    assert backlog.sweep("sweeper") == 1
    assert backlog.sweep("sweeper") == 0
    record = seen(backlog, job.id)
    assert (record.state, record.attempt) == (State.QUEUED, 0)
    (entry,) = history(backlog, job.id)
    assert (entry["outcome"], entry["attempt"], entry["worker"]) == ("lost", 1, "w1")
    assert "lease" in entry["reason"]
    assert backlog.workers() == []
    assert claim_one(backlog, "w2").attempt == 1


def test_a_lease_that_is_extended_is_kept(backlog: Backlog, clocks: Clocks) -> None:
    put_one(backlog)
    backlog.extend("w1", LEASE)
    claim = claim_one(backlog, "w1")
    for _ in range(3):
        clocks.pass_time(LEASE - 1)
        assert backlog.extend("w1", LEASE)
        assert backlog.sweep("sweeper") == 0
    assert backlog.settle([settlement(claim)]) == [True]


def test_who_is_late_itself_finds_nobody_hanging(backlog: Backlog, clocks: Clocks) -> None:
    put_one(backlog)
    for worker in ("w1", "w2"):
        backlog.extend(worker, LEASE)
    claim = claim_one(backlog, "w1")
    clocks.pass_time(LEASE + 1)  # the store stood still
    assert backlog.sweep("w2") == 0
    for worker in ("w2", "w1"):
        assert backlog.extend(worker, LEASE)
    assert backlog.settle([settlement(claim)]) == [True]


def test_the_history_keeps_its_newest_lines(backlog: Backlog) -> None:
    job = Job(new_id(), "noop", b"{}", 1.0, 1)
    backlog.put([job])
    for n in range(HISTORY_MAX + 5):
        (claim,) = backlog.claim(1, "w")
        backlog.settle([Settlement(job.id, claim.token, State.QUEUED, 0, 0, b'{"n": %d}' % n)])
    record = backlog.get(job.id)
    assert record is not None
    assert [line["n"] for line in json.loads(record.history)] == list(range(5, HISTORY_MAX + 5))


def test_extend_says_that_the_lease_was_lost(backlog: Backlog, clocks: Clocks) -> None:
    assert not backlog.extend("w1", LEASE)  # it had none yet
    assert backlog.extend("w1", LEASE)
    clocks.pass_time(LEASE + 1)
    backlog.sweep("sweeper")
    assert not backlog.extend("w1", LEASE)
    assert backlog.extend("w1", LEASE)
    assert backlog.workers() == ["w1"]


def test_one_lost_lease_takes_nothing_from_another(backlog: Backlog, clocks: Clocks) -> None:
    backlog.put([a_job(), a_job()])
    backlog.extend("w1", LEASE)
    backlog.extend("w2", 10 * LEASE)
    lost, kept = claim_one(backlog, "w1"), claim_one(backlog, "w2")
    clocks.pass_time(LEASE + 1)
    assert backlog.sweep("sweeper") == 1
    assert backlog.settle([settlement(lost), settlement(kept)]) == [False, True]
    assert backlog.workers() == ["w2"]


def test_leave_gives_back_what_is_held_without_counting_the_attempt(backlog: Backlog) -> None:
    job = put_one(backlog)
    backlog.extend("w1", LEASE)
    claim = claim_one(backlog, "w1")
    backlog.leave("w1")
    record = seen(backlog, job.id)
    assert (record.state, record.attempt) == (State.QUEUED, 0)
    assert history(backlog, job.id)[0]["outcome"] == "lost"
    assert (backlog.workers(), backlog.running()) == ([], [])
    assert backlog.settle([settlement(claim)]) == [False]


# batch


def test_what_is_in_a_batch_is_seen_when_it_ends(backlog: Backlog) -> None:
    job = a_job()
    with backlog.batch():
        backlog.put([job])
        claim = claim_one(backlog)
        assert backlog.settle([settlement(claim)]) == [True]
    assert seen(backlog, job.id).state == State.SUCCEEDED
    assert backlog.counts() == {state: 0 for state in State} | {State.SUCCEEDED: 1}


def test_a_batch_that_raises_did_not_happen(backlog: Backlog) -> None:
    backlog.put([a_job(), a_job()])
    backlog.extend("w1", LEASE)
    held = claim_one(backlog, "w1")
    late = a_job()

    def everything() -> None:
        with backlog.batch():
            backlog.put([late])
            backlog.claim(1, "w1")
            backlog.settle([settlement(held)])
            backlog.extend("w2", LEASE)
            raise KeyError("on purpose")

    before = backlog.counts()
    with pytest.raises(KeyError, match="on purpose"):
        everything()
    assert backlog.get(late.id) is None
    assert backlog.counts() == before
    assert backlog.workers() == ["w1"]
    assert backlog.settle([settlement(held)]) == [True]


def test_reading_in_another_thread_while_jobs_are_put_is_safe(backlog: Backlog) -> None:
    done = threading.Event()

    def put_many() -> None:
        try:
            for _ in range(40):
                with backlog.batch():
                    for _ in range(50):
                        put_one(backlog)
        finally:
            done.set()

    writer = threading.Thread(target=put_many)
    writer.start()
    try:
        looks = 0
        while not done.is_set() or not looks:
            assert backlog.counts()[State.QUEUED] >= 0
            backlog.oldest(), backlog.running(), backlog.workers()
            looks += 1
    finally:
        writer.join()
    assert backlog.counts()[State.QUEUED] == 2000


def test_who_was_late_takes_nobodys_jobs_right_after_it_renewed_its_lease(backlog: Backlog, clocks: Clocks) -> None:
    """The store was held for longer than a lease: all were late, and one must be the first to come."""
    put_one(backlog)
    for worker in ("w1", "w2"):
        backlog.extend(worker, LEASE)
    claim = claim_one(backlog, "w1")
    clocks.pass_time(LEASE + 1)
    with backlog.batch():
        assert backlog.extend("w2", LEASE)
        assert backlog.sweep("w2") == 0
    assert backlog.extend("w1", LEASE)
    assert backlog.settle([settlement(claim)]) == [True]


def test_who_was_late_finds_who_stays_away(backlog: Backlog, clocks: Clocks) -> None:
    put_one(backlog)
    for worker in ("w1", "w2"):
        backlog.extend(worker, LEASE)
    claim_one(backlog, "w1")
    clocks.pass_time(LEASE + 1)
    backlog.extend("w2", LEASE)
    clocks.pass_time(2)
    assert backlog.sweep("w2") == 1


# counts, and the engines against each other


class EnginesAgree(RuleBasedStateMachine):
    """The same verbs in the same order come to the same thing in every engine, and counts are what get() says."""

    BOUNDS = Bounds(backlog_max=6, keep=40.0, keep_max=3)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clocks = Clocks()
        self.engines = [open_(self.folder, self.clocks, self.BOUNDS) for open_ in ENGINES.values()]
        self.made = 0
        self.kept = list(ENGINES).index("sqlite")  # what survives being closed
        self.ids: list[str] = []
        self.claims: list[Claim] = []
        self.callbacks: list[tuple[str, tuple[Callback, ...]]] = []

    def teardown(self) -> None:
        for engine in self.engines:
            engine.close()
        shutil.rmtree(self.folder)

    def all(self, verb: str, *arguments: Any) -> Any:
        first, *others = [getattr(engine, verb)(*arguments) for engine in self.engines]
        assert all(other == first for other in others), f"{verb}{arguments} differs: {first} {others}"
        return first

    def put_all(self, jobs: list[Job]) -> list[Receipt | type[StoreError]]:
        first, *others = [
            [receipt if isinstance(receipt, Receipt) else type(receipt) for receipt in engine.put(jobs)]
            for engine in self.engines
        ]
        assert all(other == first for other in others), f"put {jobs} differs: {first} {others}"
        return first

    @rule(
        priorities=st.lists(st.integers(-2, 2), min_size=1, max_size=3),
        key=st.sampled_from([None, None, "k1", "k2"]),
        fingerprint=st.sampled_from([b"one", b"two"]),
        delay=st.sampled_from([0.0, 0.0, 3.0]),
        expires_in=st.sampled_from([None, 4.0]),
        callback=st.sampled_from([None, "http://a.example/"]),
    )
    def put(self, priorities: list[int], key: str | None, **asked: Any) -> None:
        new = [f"job-{self.made + n:04}" for n in range(len(priorities))]
        self.made += len(new)
        jobs = [replace(a_job(id, priority), key=key, **asked) for id, priority in zip(new, priorities, strict=True)]
        # What was returned comes on top: there can be more than may be put.
        room = max(self.BOUNDS.backlog_max - self.all("counts")[State.QUEUED], 0)
        receipts = self.put_all(jobs)
        stored = [receipt.id for receipt in receipts if isinstance(receipt, Receipt) and receipt.new]
        assert set(stored) <= set(new)
        assert len(stored) <= room
        if key is None:
            assert len(stored) == min(len(new), room)
        self.ids += stored

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(self.ids))
        if self.look(id) is not None:
            (receipt,) = self.put_all([a_job(id)])
            assert receipt in (Receipt(id, new=False), BacklogFull)

    @rule()
    def expire(self) -> None:
        self.all("expire")

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), verb=st.sampled_from(["cancel", "requeue"]))
    def ask(self, data: st.DataObject, verb: str) -> None:
        id = data.draw(st.sampled_from(self.ids))
        first, *others = [getattr(engine, verb)(id) for engine in self.engines]
        assert all(other == first or type(other) is type(first) is BacklogFull for other in others)

    @rule(limit=st.integers(0, 2), worker=st.sampled_from(["w1", "w2"]))
    def claim_callbacks(self, limit: int, worker: str) -> None:
        first, *others = [engine.claim_callbacks(limit, worker) for engine in self.engines]
        plain = [[replace(callback, place=0) for callback in each] for each in (first, *others)]
        assert all(other == plain[0] for other in plain)
        self.callbacks += [(worker, each) for each in zip(first, *others, strict=True)]

    @precondition(lambda self: self.callbacks)
    @rule(data=st.data(), again=st.sampled_from([None, 5.0]), error=st.sampled_from([None, "HTTP 500"]))
    def settle_callback(self, data: st.DataObject, again: float | None, error: str | None) -> None:
        worker, each = data.draw(st.sampled_from(self.callbacks))  # stale ones too
        for engine, callback in zip(self.engines, each, strict=True):
            engine.settle_callback(callback, worker, again, error)

    @rule(state=st.sampled_from(REQUEUED_FROM), name=st.sampled_from([None, "sleep", "other"]))
    def requeue_many(self, state: State, name: str | None) -> None:
        first, *others = [engine.requeue_many(state, name, self.clocks.wall + 1) for engine in self.engines]
        assert all(other == first or type(other) is type(first) is BacklogFull for other in others)

    @rule(state=st.sampled_from([None, *State]), limit=st.integers(1, 4))
    def page(self, state: State | None, limit: int) -> None:
        first, *others = [engine.page(state, None, None, limit).jobs for engine in self.engines]
        assert all(other == first for other in others)

    @rule()
    def prune(self) -> None:
        ended = self.all("ended")
        for engine in self.engines:
            while engine.prune():
                pass
        assert self.all("ended") == ended
        for id in self.ids:
            record = self.look(id)
            assert record is not None or self.all("removed", id)
            if record is not None and record.finished_at is not None:
                assert record.finished_at >= self.clocks.wall - self.BOUNDS.keep

    @rule(limit=st.integers(0, 3), worker=st.sampled_from(["w1", "w2"]))
    def claim(self, limit: int, worker: str) -> None:
        self.claims += self.all("claim", limit, worker)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), state=st.sampled_from([*ENDS, State.QUEUED, State.QUEUED]), delay=st.sampled_from([0.0, 5.0]))
    def settle(self, data: st.DataObject, state: State, delay: float) -> None:
        claim = data.draw(st.sampled_from(self.claims))  # stale ones too
        self.all("settle", [settlement(claim, state, delay=delay if state == State.QUEUED else 0.0)])

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def extend(self, worker: str) -> None:
        self.all("extend", worker, LEASE)

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def leave(self, worker: str) -> None:
        self.all("leave", worker)

    @rule(seconds=st.sampled_from([1, 5, 31]), step=st.sampled_from([0, DAY, -DAY]))
    def time_passes(self, seconds: float, step: float) -> None:
        self.clocks.pass_time(seconds)
        self.clocks.wall += step

    @rule()
    def sweep(self) -> None:
        self.all("sweep", "sweeper")

    @rule(samples=st.dictionaries(st.sampled_from("abc"), st.integers(1, 1 << 40)))
    def publish(self, samples: dict[str, int]) -> None:
        before = self.all("samples")
        self.all("publish", samples)
        assert self.all("samples") == before | {name: before.get(name, 0) + n for name, n in samples.items()}

    @rule()
    def stop_and_start_again(self) -> None:
        """Everybody leaves, and the store is closed: nothing else changes."""
        for worker in ("w1", "w2"):
            self.all("leave", worker)
        self.engines[self.kept].close()
        self.engines[self.kept] = open_sqlite(self.folder, self.clocks, self.BOUNDS)

    @invariant()
    def counts_are_what_get_says(self) -> None:
        states = Counter(record.state for id in self.ids if (record := self.look(id)))
        assert self.all("counts") == {state: states[state] for state in State}
        tally = self.all("tally")
        assert tally.get(("sleep", State.QUEUED), 0) == len(self.ids)
        assert all(states[state] <= tally.get(("sleep", state), 0) for state in ENDS)

    @invariant()
    def a_job_is_refused_where_there_is_no_room(self) -> None:
        full = self.all("counts")[State.QUEUED] >= self.BOUNDS.backlog_max
        for engine in self.engines:
            assert isinstance(engine.refusal(), BacklogFull if full else NoneType)

    @invariant()
    def workers_and_what_they_run_agree(self) -> None:
        for worker in self.all("workers"):
            first, *others = [sorted(engine.cancelling(worker)) for engine in self.engines]
            assert all(other == first for other in others)
        self.all("versions", self.ids)
        first, *others = [sorted((r.worker, r.id, r.started_at) for r in engine.running()) for engine in self.engines]
        assert all(other == first for other in others)

    def look(self, id: str) -> Record | None:
        first, *others = [engine.get(id) for engine in self.engines]
        for other in others:
            if first is None or other is None:
                assert first is other
                continue
            assert json.loads(other.history) == json.loads(first.history)
            assert json.loads(other.callback or b"null") == json.loads(first.callback or b"null")
            assert replace(other, history=b"", callback=None) == replace(first, history=b"", callback=None)
        return first


TestEnginesAgree = EnginesAgree.TestCase
TestEnginesAgree.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
