"""From claim to settlement, on the memory engine with thread slots: quick, and the same code as in production."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest

from service import registry
from service.backlog.aio import AsyncBacklog
from service.backlog.memory import MemoryBacklog
from service.consumer import Consumer
from service.executor import Executor
from service.job import Job, Record, State, new_id
from service.metrics import Metrics
from service.slots import Limits

SOON = 10.0  # seconds after which what we wait for does not come any more
LEASE = 30.0  # seconds


class Gate:
    """A job that tells how often it was started, and ends when it may."""

    def __init__(self) -> None:
        self.starts, self.open = 0, threading.Event()

    def __call__(self) -> int:
        self.starts += 1
        self.open.wait(SOON)
        return self.starts


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    known = dict(registry._functions)
    registry.job(name="gate", kind="thread", timeout=SOON)(lambda: gate())
    registry.job(name="fails", kind="thread", attempts=2, backoff=0)(lambda: 1 // 0)
    yield gate
    gate.open.set()
    registry._functions.clear()
    registry._functions.update(known)


class Producer:
    def __init__(self) -> None:
        self.clock = 0.0
        self.engine = MemoryBacklog(lambda: self.clock)
        self.backlog = AsyncBacklog(self.engine, SOON, lambda: None)
        self.metrics = Metrics(registry.names())
        executor = Executor(2, 60.0, Limits("unused", 0, 1000))
        self.consumer = Consumer(self.backlog, executor, "w1", LEASE, self.metrics, lambda: None)

    async def put(self, name: str) -> str:
        function = registry.find(name)
        job = Job(new_id(), name, b"{}", function.timeout, function.attempts)
        await self.backlog.put(job)
        self.consumer.wake()
        return job.id

    def look(self, id: str) -> Record:
        record = self.engine.get(id)
        assert record is not None
        return record

    async def ends_as(self, id: str, state: State) -> None:
        await until(lambda: self.look(id).state == state)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON / 2):
        while not condition():
            await asyncio.sleep(0.002)


def in_producer(test: Callable[[Producer], Awaitable[None]]) -> None:
    async def main() -> None:
        producer = Producer()
        await producer.consumer.start()
        try:
            await test(producer)
        finally:
            await producer.consumer.stop(0.0)
            await producer.backlog.close("w1")

    asyncio.run(main())


def test_a_put_wakes_the_consumer_and_the_job_ends_with_its_result(gate: Gate) -> None:
    async def test(producer: Producer) -> None:
        gate.open.set()
        id = await producer.put("gate")
        await producer.ends_as(id, State.SUCCEEDED)
        assert producer.look(id).result == b"1"

    in_producer(test)


def test_a_job_that_fails_is_tried_again_and_ends_failed_with_both_attempts_in_its_history(gate: Gate) -> None:
    async def test(producer: Producer) -> None:
        id = await producer.put("fails")
        await producer.ends_as(id, State.FAILED)
        entries = msgspec.json.decode(producer.look(id).history)
        assert [(entry["attempt"], entry["outcome"]) for entry in entries] == [(1, "raised"), (2, "raised")]

    in_producer(test)


def test_what_runs_in_threads_shares_no_slot_however_short_it_is(gate: Gate) -> None:
    async def test(producer: Producer) -> None:
        gate.open.set()
        ids = [await producer.put("gate") for _ in range(100)]
        for id in ids:
            await producer.ends_as(id, State.SUCCEEDED)
        assert producer.consumer._pace.packs() == {}

    in_producer(test)


def test_no_more_is_claimed_than_there_are_slots(gate: Gate) -> None:
    async def test(producer: Producer) -> None:
        ids = [await producer.put("gate") for _ in range(5)]
        await until(lambda: gate.starts == 2)
        assert producer.engine.counts()[State.QUEUED] == 3
        gate.open.set()
        for id in ids:
            await producer.ends_as(id, State.SUCCEEDED)

    in_producer(test)


def test_at_a_stop_what_runs_goes_back_and_the_attempt_does_not_count(gate: Gate) -> None:
    async def test(producer: Producer) -> None:
        id = await producer.put("gate")
        await until(lambda: gate.starts == 1)
        await producer.consumer.stop(0.0)
        record = producer.look(id)
        assert (record.state, record.attempt) == (State.QUEUED, 0)
        assert msgspec.json.decode(record.history)[0]["reason"] == "the producer stops"

    in_producer(test)


def test_a_job_that_is_not_registered_here_waits_and_holds_up_nothing(gate: Gate) -> None:
    async def test(producer: Producer) -> None:
        await producer.backlog.put(job := Job(new_id(), "removed since", b"{}", SOON, 1))
        producer.consumer.wake()
        await until(lambda: b"removed since" in producer.look(job.id).history)
        record = producer.look(job.id)
        assert (record.state, record.attempt) == (State.QUEUED, 0)
        assert record.run_at > record.created_at + 1
        gate.open.set()
        await producer.ends_as(await producer.put("gate"), State.SUCCEEDED)

    in_producer(test)


def test_a_producer_that_hung_can_claim_its_own_lost_job_again(gate: Gate) -> None:
    async def test(producer: Producer) -> None:
        id = await producer.put("gate")
        await until(lambda: gate.starts == 1)
        producer.clock += LEASE + 1  # as after SIGSTOP and CONT
        assert await producer.backlog.sweep("another producer") == 1
        producer.consumer.wake()
        await until(lambda: gate.starts == 2)
        gate.open.set()
        await producer.ends_as(id, State.SUCCEEDED)

    in_producer(test)
