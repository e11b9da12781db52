"""The event loop's way to a backlog: what shares a commit, what is refused in time, what is done when it breaks."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from service import linux
from service.backlog.aio import FEW, GROUP, SHORT, AsyncBacklog
from service.backlog.memory import MemoryBacklog
from service.errors import StoreBroken, StoreBusy, StoreFull
from service.job import Job, Receipt, Settlement, State, new_id

COMMIT_TIMEOUT = 0.1  # seconds
SOON = 10.0  # seconds after which what we wait for does not come any more


class Slow(MemoryBacklog):
    """Its commits wait until `flush` is set, as a disk would; each is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.flush, self.flushing = threading.Event(), threading.Event()
        self.busy = False
        self.commits: list[list[str]] = []

    @contextmanager
    def batch(self) -> Iterator[None]:
        if self.busy:
            raise StoreBusy("locked by somebody else")
        self.commits.append([])
        yield
        self.flushing.set()
        assert self.flush.wait(SOON)

    def put(self, jobs: Sequence[Job]) -> list[bool]:
        self.commits[-1] += [job.id for job in jobs]
        return super().put(jobs)


class Broken(MemoryBacklog):
    @contextmanager
    def batch(self) -> Iterator[None]:
        yield
        raise StoreBroken("disk I/O error")


class Full(MemoryBacklog):
    """Its disk is full for one commit."""

    full = True

    @contextmanager
    def batch(self) -> Iterator[None]:
        with super().batch():
            yield
            if self.full:
                self.full = False
                raise StoreFull("no room")


class Long(MemoryBacklog):
    """It writes until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.writing, self.go = threading.Event(), threading.Event()
        self.ended_early = False

    @contextmanager
    def batch(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.ended_early |= self.writing.is_set() and not self.go.is_set()

    def put(self, jobs: Sequence[Job]) -> list[bool]:
        self.writing.set()
        assert self.go.wait(SOON)
        return super().put(jobs)


class Unforeseen(MemoryBacklog):
    def put(self, jobs: Sequence[Job]) -> list[bool]:
        raise ZeroDivisionError("a bug of the engine's")


def a_job(id: str = "") -> Job:
    return Job(id or new_id(), "sleep", b"{}", 60.0, 3)


def in_loop(
    engine: MemoryBacklog,
    test: Callable[[AsyncBacklog], Awaitable[None]],
    commit_timeout: float = SOON,
    on_broken: Callable[[], None] = lambda: None,
) -> None:
    async def main() -> None:
        backlog = AsyncBacklog(engine, commit_timeout, on_broken)
        async with asyncio.timeout(2 * SOON):
            try:
                await test(backlog)
            finally:
                await backlog.close("w1")

    asyncio.run(main())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.002)


def test_every_verb_has_its_answer() -> None:
    async def test(backlog: AsyncBacklog) -> None:
        job = a_job()
        assert not await backlog.extend("w1", 30.0)
        assert (await backlog.put(job)).new
        assert not (await backlog.put(job)).new
        (claim,) = await backlog.claim(5, "w1")
        assert await backlog.sweep("sweeper") == 0
        record = await backlog.get(job.id)
        assert record is not None
        assert record.state == State.RUNNING
        counts, oldest, workers, running, _ = await backlog.status()
        assert (counts[State.RUNNING], oldest, workers, len(running)) == (1, None, ["w1"], 1)
        settlement = Settlement(job.id, claim.token, State.SUCCEEDED, 1, 0, b"{}")
        assert await backlog.settle(settlement)
        assert not await backlog.settle(settlement)
        assert await backlog.get(new_id()) is None
        assert await backlog.refusal() is None
        await backlog.publish({"a": 1, "b": 2})
        await backlog.publish({"a": 3})
        assert await backlog.samples() == {"a": 4, "b": 2}
        assert await backlog.oldest() is None
        assert backlog.durability == "memory"

    in_loop(MemoryBacklog(), test)


def test_answers_go_to_those_who_asked() -> None:
    async def test(backlog: AsyncBacklog) -> None:
        ids = [f"job-{n % 50}" for n in range(100)]
        receipts = await asyncio.gather(*(backlog.put(a_job(id)) for id in ids))
        assert [receipt.new for receipt in receipts] == [True] * 50 + [False] * 50

    in_loop(MemoryBacklog(), test)


def test_writes_that_arrive_during_a_commit_share_the_next_one() -> None:
    engine = Slow()

    async def test(backlog: AsyncBacklog) -> None:
        first = asyncio.ensure_future(backlog.put(a_job("first")))
        await until(engine.flushing.is_set)
        others = [asyncio.ensure_future(backlog.put(a_job(f"other-{n}"))) for n in range(20)]
        await asyncio.sleep(0)
        assert not first.done(), "no answer before the flush"
        engine.flush.set()
        assert await first
        assert all(receipt.new for receipt in await asyncio.gather(*others))
        assert engine.commits == [["first"], [f"other-{n}" for n in range(20)]]

    in_loop(engine, test)


def test_a_few_jobs_are_written_in_real_time_and_nothing_that_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[bool] = []
    monkeypatch.setattr(linux, "run_at_once", changes.append)

    async def test(backlog: AsyncBacklog) -> None:
        await backlog.put(a_job())
        await backlog.put_all([a_job()] * FEW)
        assert changes == [True]
        await backlog.put_all([a_job()] * (FEW + 1))
        await backlog.put_all([a_job()] * SHORT)
        assert changes == [True, False]
        await backlog.put(a_job())
        assert changes == [True, False, True]
        await backlog.prune()
        assert changes == [True, False, True, False, True], "not while it prunes, but for what comes next"

    in_loop(MemoryBacklog(), test)


def test_one_commit_takes_no_more_than_a_group() -> None:
    engine = Slow()

    async def test(backlog: AsyncBacklog) -> None:
        first = asyncio.ensure_future(backlog.put(a_job()))
        await until(engine.flushing.is_set)
        others = [asyncio.ensure_future(backlog.put(a_job())) for _ in range(GROUP + 1)]
        await asyncio.sleep(0)
        engine.flush.set()
        assert all(await asyncio.gather(first, *others))
        assert [len(commit) for commit in engine.commits] == [1, GROUP, 1]

    in_loop(engine, test)


def test_a_write_without_a_place_in_a_commit_is_refused_in_time_and_never_stored() -> None:
    engine = Slow()

    async def test(backlog: AsyncBacklog) -> None:
        first = asyncio.ensure_future(backlog.put(a_job("first")))
        await until(engine.flushing.is_set)
        started = asyncio.get_running_loop().time()
        with pytest.raises(StoreBusy, match="no place in a commit"):
            await backlog.put(a_job("late"))
        assert COMMIT_TIMEOUT <= asyncio.get_running_loop().time() - started < SOON
        assert not first.done(), "what is in a commit is waited for, however long it takes"
        engine.flush.set()
        assert await first
        assert await backlog.put(a_job("next"))
        assert await backlog.get("late") is None
        assert engine.commits == [["first"], ["next"]]

    in_loop(engine, test, COMMIT_TIMEOUT)


def test_a_busy_store_is_tried_again_until_the_time_is_up() -> None:
    engine = Slow()
    engine.flush.set()

    async def test(backlog: AsyncBacklog) -> None:
        engine.busy = True
        with pytest.raises(StoreBusy):
            await backlog.put(a_job("late"))
        engine.busy = False
        assert await backlog.put(a_job("next"))
        assert await backlog.get("late") is None

    in_loop(engine, test, COMMIT_TIMEOUT)


def test_a_store_that_is_busy_for_a_moment_costs_nobody_an_answer() -> None:
    engine = Slow()
    engine.flush.set()

    async def test(backlog: AsyncBacklog) -> None:
        engine.busy = True
        asyncio.get_running_loop().call_later(0.02, setattr, engine, "busy", False)
        assert await backlog.put(a_job())

    in_loop(engine, test)


def test_reads_do_not_wait_for_a_commit() -> None:
    engine = Slow()

    async def test(backlog: AsyncBacklog) -> None:
        first = asyncio.ensure_future(backlog.put(a_job()))
        await until(engine.flushing.is_set)
        assert await backlog.get("unknown") is None
        assert not first.done()
        engine.flush.set()
        await first

    in_loop(engine, test)


@pytest.mark.parametrize("engine", [Broken(), Unforeseen()], ids=["an I/O error", "a bug"])
def test_a_failed_commit_is_told_to_whoever_waits_and_to_the_producer(engine: MemoryBacklog) -> None:
    broken: list[bool] = []

    async def test(backlog: AsyncBacklog) -> None:
        outcomes = await asyncio.gather(*(backlog.put(a_job()) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreBroken] * 3
        assert broken

    in_loop(engine, test, on_broken=lambda: broken.append(True))


@pytest.mark.parametrize("count", [1, SHORT, SHORT + 1])
def test_a_full_disk_is_told_to_all_whose_commit_it_was_and_to_nobody_after_them(count: int) -> None:
    async def test(backlog: AsyncBacklog) -> None:
        jobs = [a_job() for _ in range(count)]
        outcomes = await asyncio.gather(*map(backlog.put, jobs), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreFull] * count
        assert await backlog.get(jobs[0].id) is None
        assert all(receipt.new for receipt in await asyncio.gather(*map(backlog.put, jobs)))

    in_loop(Full(), test)


def test_a_close_that_is_given_up_leaves_alone_what_is_being_written() -> None:
    engine = Long()

    async def test(backlog: AsyncBacklog) -> None:
        lines = asyncio.ensure_future(backlog.put_all([a_job()]))
        await until(engine.writing.is_set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await backlog.close("w1")
        engine.go.set()
        assert all(isinstance(receipt, Receipt) for receipt in await lines)
        assert not engine.ended_early

    in_loop(engine, test)


def test_whoever_has_gone_does_not_spoil_the_commit_for_the_others() -> None:
    engine = Slow()

    async def test(backlog: AsyncBacklog) -> None:
        first = asyncio.ensure_future(backlog.put(a_job()))
        await until(engine.flushing.is_set)
        gone, stays = (asyncio.ensure_future(backlog.put(a_job())) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        engine.flush.set()
        assert await first
        assert await stays

    in_loop(engine, test)


def test_close_commits_what_is_pending_and_gives_back_what_is_held() -> None:
    engine = Slow()
    left: list[str] = []
    engine.leave = left.append  # type: ignore[method-assign,assignment]

    async def main() -> None:
        backlog = AsyncBacklog(engine, SOON, lambda: None)
        first = asyncio.ensure_future(backlog.put(a_job()))
        await until(engine.flushing.is_set)
        second = asyncio.ensure_future(backlog.put(a_job()))
        await asyncio.sleep(0)
        engine.flush.set()
        await backlog.close("w1")
        assert await first
        assert await second

    asyncio.run(main())
    assert left == ["w1"]


def test_close_does_not_wait_for_a_busy_store_without_end() -> None:
    engine = Slow()
    engine.flush.set()

    async def main() -> None:
        backlog = AsyncBacklog(engine, COMMIT_TIMEOUT, lambda: None)
        engine.busy = True
        late = asyncio.ensure_future(backlog.put(a_job("late")))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(backlog.close("w1"))
        ended, _ = await asyncio.wait((closing,), timeout=SOON)
        engine.busy = False
        await closing
        outcome = (await asyncio.gather(late, return_exceptions=True))[0]
        assert ended
        assert isinstance(outcome, StoreBusy)

    asyncio.run(main())


def test_a_wake_up_from_another_process_is_passed_on() -> None:
    engine = MemoryBacklog()
    ours, theirs = os.pipe()
    engine.wake_fd = lambda: ours  # type: ignore[method-assign]

    async def test(backlog: AsyncBacklog) -> None:
        woken: list[bool] = []
        backlog.on_wake(lambda: woken.append(True))
        os.write(theirs, b"!!!")
        await until(lambda: woken)
        assert woken == [True]

    in_loop(engine, test)
    os.close(ours)
    os.close(theirs)
