"""The event loop's way to any backlog: one thread that writes, one that reads, and group commit.

While one commit is being flushed, requests gather; the next commit takes them all. A request that gets no place
in a commit in time is withdrawn and refused, so that "not accepted" is true; once it is in one, it is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from service import linux
from service.backlog.base import NO_PACKS, Backlog, Page
from service.errors import BacklogFull, StoreBroken, StoreBusy, StoreCorrupt, StoreError, StoreFull
from service.job import Callback, Claim, Job, Receipt, Record, Running, Settlement, State

log = logging.getLogger(__name__)

T = TypeVar("T")


GROUP = 512  # rows in one commit at most, so that no request waits for a transaction without end
# Where several came together others are on their way: a commit costs as much as twenty rows in it.
CROWD = 4  # writes in a commit, above which the next one waits a little
FEW = 4  # rows that are written in real time
LIGHT = {"put", "put_all", "settle"}  # a row of these takes little time; more would be in the way of others
GATHER = 0.0005  # seconds; an event loop that has nothing else to do makes a whole millisecond of it
# So many jobs are written by the event loop itself, in a commit that the thread begins and ends. The thread would wait
# for the interpreter after each statement, with the store's lock held, as long as ten of those jobs take.
SHORT, SMALL = 64, 4096  # jobs, and bytes of the arguments of each
SAMPLES = 20  # of the jobs that have ended, one with every sweep: the last ten seconds
BUSY_PAUSE = 0.05  # seconds before a store that somebody else holds is tried again


@dataclass(slots=True, eq=False)
class Write:
    verb: str
    argument: Any
    future: asyncio.Future[Any]
    deadline: float

    @property
    def short(self) -> bool:
        return self.verb == "put" and len(self.argument.args) <= SMALL

    @property
    def rows(self) -> int:
        return len(self.argument[0]) if self.verb == "put_all" else 1


class Status(NamedTuple):
    """What /stats shows."""

    counts: dict[State, int]
    oldest: float | None  # when the claimable job that waits longest was put
    workers: list[str]
    running: list[Running]
    log_bytes: int


class AsyncBacklog:
    def __init__(self, backlog: Backlog, commit_timeout: float, on_broken: Callable[[], None]) -> None:
        """Call in the event loop. `on_broken` is called when the state of a commit is unknown."""
        self._backlog, self._commit_timeout, self._on_broken = backlog, commit_timeout, on_broken
        self._loop = asyncio.get_running_loop()
        self._pending: list[Write] = []
        self._lock = threading.Lock()  # of the list
        self._asked = asyncio.Event()
        self._closing = False
        self._broken: StoreBroken | None = None
        self._ended: deque[tuple[float, int]] = deque(maxlen=SAMPLES)
        self.drain_rate = 0.0  # jobs per second
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="backlog-reader")
        self._work: SimpleQueue[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._at_once = False
        self._writer = threading.Thread(target=self._write_forever, name="backlog-writer")
        self._writer.start()
        self._committing = asyncio.create_task(self._commit_forever())
        self._withdrawing = self._loop.call_later(commit_timeout / 4, self._withdraw)

    @property
    def corrupt(self) -> bool:
        return isinstance(self._broken, StoreCorrupt)

    @property
    def durability(self) -> str:
        return self._backlog.durability

    async def put(self, job: Job) -> Receipt:
        """Durable when it returns. Raises StoreBusy, BacklogFull, StoreFull (not stored) or StoreBroken (unknown)."""
        answer: Receipt = await self._ask("put", job)
        return answer

    async def put_all(self, jobs: Sequence[Job]) -> list[Receipt | StoreError]:
        """`put` for many, in one commit; what it would raise stands in the place of the receipt."""
        try:
            answer: list[Receipt | StoreError] = await self._ask("put_all", (jobs,))
        except StoreError as error:
            return [error] * len(jobs)
        return answer

    async def settle(self, settlement: Settlement) -> bool:
        answer: bool = await self._ask("settle", settlement)
        return answer

    async def claim(self, slots: int, worker: str, packs: Mapping[str, int] = NO_PACKS) -> list[Claim]:
        answer: list[Claim] = await self._ask("claim", (slots, worker, packs))
        return answer

    async def extend(self, worker: str, lease: float) -> bool:
        answer: bool = await self._ask("extend", (worker, lease))
        return answer

    async def sweep(self, sweeper: str) -> int:
        answer: int = await self._ask("sweep", (sweeper,))
        return answer

    async def expire(self) -> bool:
        answer: bool = await self._ask("expire", ())
        return answer

    async def cancel(self, id: str) -> State | None:
        answer: State | None = await self._ask("cancel", (id,))
        return answer

    async def requeue(self, id: str) -> State | None:
        """Raises BacklogFull."""
        answer: State | None = await self._ask("requeue", (id,))
        return answer

    async def requeue_many(self, state: State, name: str | None, before: float) -> int:
        """Raises BacklogFull."""
        answer: int = await self._ask("requeue_many", (state, name, before))
        return answer

    async def claim_callbacks(self, limit: int, worker: str) -> Sequence[Callback]:
        answer: Sequence[Callback] = await self._ask("claim_callbacks", (limit, worker))
        return answer

    async def settle_callback(self, callback: Callback, worker: str, again: float | None, error: str | None) -> None:
        await self._ask("settle_callback", (callback, worker, again, error))

    async def refusal(self) -> StoreError | None:
        """Why a new job would be refused now, as BacklogFull or StoreFull. Raises another StoreError when the store
        cannot be written."""
        try:
            await self._ask("refusal", ())
        except (BacklogFull, StoreFull) as error:
            return error
        return None

    async def publish(self, samples: Mapping[str, int]) -> None:
        await self._ask("publish", (samples,))

    async def prune(self) -> bool:
        answer: bool = await self._ask("prune", ())
        return answer

    async def measure(self) -> None:
        """How many jobs all consumers of this backlog end a second, over the last few seconds."""
        self._ended.append((self._loop.time(), await self._read(self._backlog.ended)))
        (then, before), (now, after) = self._ended[0], self._ended[-1]
        self.drain_rate = (after - before) / (now - then) if now > then else 0.0

    async def removed(self, id: str) -> bool:
        return await self._read(self._backlog.removed, id)

    async def get(self, id: str) -> Record | None:
        return await self._read(self._backlog.get, id)

    async def page(self, state: State | None, name: str | None, before: int | None, limit: int) -> Page:
        return await self._read(self._backlog.page, state, name, before, limit)

    async def versions(self, ids: Sequence[str]) -> dict[str, int]:
        return await self._read(self._backlog.versions, ids)

    async def cancelling(self, worker: str) -> Sequence[tuple[str, int]]:
        return await self._read(self._backlog.cancelling, worker)

    async def oldest(self) -> float | None:
        return await self._read(self._backlog.oldest)

    async def samples(self) -> dict[str, int]:
        return await self._read(self._backlog.samples)

    async def tally(self) -> dict[tuple[str, State], int]:
        return await self._read(self._backlog.tally)

    async def status(self) -> Status:
        return await self._read(self._status)

    def _status(self) -> Status:
        b = self._backlog
        return Status(b.counts(), b.oldest(), b.workers(), b.running(), b.log_bytes())

    def wake_others(self) -> None:
        self._backlog.wake_others()

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever another process says that there is something to claim."""
        fd = self._backlog.wake_fd()
        if fd is not None:
            self._loop.add_reader(fd, self._woken, fd, wake)

    def _woken(self, fd: int, wake: Callable[[], None]) -> None:
        os.read(fd, 65536)
        wake()

    async def close(self, worker: str) -> None:
        """Commit what is pending, give back what this worker holds, let go of the store."""
        fd = self._backlog.wake_fd()
        if fd is not None:
            self._loop.remove_reader(fd)
        self._closing = True
        self._asked.set()
        await asyncio.wait((self._committing,))  # a time limit of ours must not cancel a commit
        self._work.put(None)
        self._withdrawing.cancel()
        if not self._broken:
            await self._read(self._leave, worker)
        self._reader.shutdown()

    def _leave(self, worker: str) -> None:
        try:
            self._backlog.leave(worker)
        except StoreError as error:  # then the lock on our presence file tells the others
            log.warning("what this producer held is left for the others to find: %s", error)
        self._backlog.close()

    async def _read(self, read: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self._loop.run_in_executor(self._reader, read, *arguments)
        except StoreCorrupt as error:
            self._break([], error)
            raise
        except Exception as error:
            raise StoreError(f"the backlog cannot be read: {error}") from error

    async def _ask(self, verb: str, argument: Any) -> Any:
        if self._broken:
            raise self._broken
        future: asyncio.Future[Any] = self._loop.create_future()
        write = Write(verb, argument, future, self._loop.time() + self._commit_timeout)
        with self._lock:
            self._pending.append(write)
        self._asked.set()
        return await future

    def _withdraw(self) -> None:
        """Refuse what has waited too long for a place in a commit."""
        now = self._loop.time()
        with self._lock:
            late = [write for write in self._pending if write.deadline <= now]
            self._pending = [write for write in self._pending if write.deadline > now]
        for write in late:
            _answer(write.future, StoreBusy(f"no place in a commit within {self._commit_timeout:g} s"))
        self._withdrawing = self._loop.call_later(self._commit_timeout / 4, self._withdraw)

    def _break(self, taken: list[Write], error: StoreBroken) -> None:
        """Whatever is asked from now on gets this answer."""
        self._broken = self._broken or error
        with self._lock:
            refused, self._pending = [*taken, *self._pending], []
        _answer_all(refused, [error] * len(refused))
        self._on_broken()

    async def _commit_forever(self) -> None:
        """One commit after the other."""
        while await self._wait_for_pending():
            taken: list[Write] = []
            try:
                await self._commit(taken)
            except StoreBusy:
                pause = BUSY_PAUSE
            except StoreFull as error:
                _answer_all(taken, [error] * len(taken))
                pause = BUSY_PAUSE
            except Exception as error:
                log.exception("a commit failed")
                self._break(taken, error if isinstance(error, StoreBroken) else StoreBroken(str(error)))
                return  # what this connection would say from here on cannot be trusted
            else:
                pause = GATHER if len(taken) > CROWD else 0.0
            if pause:
                await asyncio.sleep(pause)

    async def _wait_for_pending(self) -> bool:
        while not self._pending and not self._closing:
            self._asked.clear()
            await self._asked.wait()
        return bool(self._pending)

    async def _commit(self, taken: list[Write]) -> None:
        """Into `taken` comes what is in it."""
        answers, batch = await self._in_writer(self._begin, taken)
        with batch:
            if answers is None:
                answers = self._apply(taken)
                await self._in_writer(batch.close)
        _answer_all(taken, answers)

    def _begin(self, taken: list[Write]) -> tuple[list[Any] | None, ExitStack]:
        """In the writer thread: a whole commit; or no answers, and a batch that the event loop has to fill."""
        with ExitStack() as batch:
            batch.enter_context(self._backlog.batch())
            taken += self._take()
            few = sum(write.rows for write in taken) <= FEW
            self._run_at_once(few and all(write.verb in LIGHT for write in taken))
            if _is_short(taken):
                return None, batch.pop_all()
            answers = self._apply(taken)
        self._run_at_once(few)
        return answers, batch

    # As a ThreadPoolExecutor does it, whose futures need the interpreter more often: 7 % fewer accepts.
    def _in_writer(self, call: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        self._work.put((future, call, arguments))
        return future

    def _write_forever(self) -> None:
        while work := self._work.get():
            future, call, arguments = work
            try:
                answer = call(*arguments)
            except Exception as error:
                answer = error
            self._loop.call_soon_threadsafe(_answer, future, answer)

    def _run_at_once(self, yes: bool) -> None:
        """In the writer thread. Few rows are on disk sooner if it does: at every change to and from this thread a slot
        that computes may get the core, for 4 ms. Many are, if it does not take the core from who brings more."""
        if yes != self._at_once:
            self._at_once = yes
            linux.run_at_once(yes)

    def _take(self) -> list[Write]:
        """Call with the store's lock: whoever came while it was waited for is in."""
        with self._lock:
            rows = accumulate(write.rows for write in self._pending)
            number = max(1, sum(total <= GROUP for total in rows))
            taken, self._pending = self._pending[:number], self._pending[number:]
            return taken

    def _apply(self, writes: list[Write]) -> list[Any]:
        """Puts and settlements go as one call each; order between writes that nobody has been answered is free."""
        answers: dict[Write, Any] = {}
        for verb in ("put", "settle"):
            group = [write for write in writes if write.verb == verb]
            if group:
                results = getattr(self._backlog, verb)([write.argument for write in group])
                answers.update(zip(group, results, strict=True))
        for write in writes:
            if write not in answers:
                verb = "put" if write.verb == "put_all" else write.verb
                answers[write] = getattr(self._backlog, verb)(*write.argument)
        return [answers[write] for write in writes]


def _is_short(writes: list[Write]) -> bool:
    """Whether to write them takes less time than another thread needs to get hold of the interpreter."""
    return len(writes) <= SHORT and all(write.short for write in writes)


def _answer_all(writes: list[Write], answers: Sequence[Any]) -> None:
    for write, answer in zip(writes, answers, strict=True):
        _answer(write.future, answer)


def _answer(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # whoever asked is gone
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
