"""Claims as many jobs as the free slots take, settles each. A put wakes it; a look once a
second makes good for a wake-up that was lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from service import registry, retry
from service.backlog.aio import AsyncBacklog
from service.backlog.base import PROMOTED
from service.course import NOT_BEGUN
from service.errors import StoreBroken, StoreError, UnknownJob
from service.executor import Executor
from service.job import Cancelled, Claim, Outcome, Returned, Succeeded
from service.log import tell
from service.metrics import Metrics
from service.motion import Motion
from service.pace import Pace, pack, spread
from service.retry import needs_process

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between looks at the backlog when nobody wakes us: a lost wake-up costs no more than this
SWEEP = 0.5  # seconds between looks for dead producers and jobs whose time has come; the promise is 2 s
LOOK_FOR_STANDSTILL = 0.5  # seconds
PRUNE = 2.0  # seconds between looks for ended jobs that are kept no longer
BETWEEN_BITES = 0.05  # seconds that belong to intake
WAKE_OTHERS = 0.01  # seconds; in a flood the others are told once in this time, not once for every job
UNKNOWN_AGAIN = 10.0  # seconds until a job that is not registered here is looked at again
RETRY_STORE = 0.5  # seconds before a busy store is asked again


class Consumer:
    def __init__(
        self,
        backlog: AsyncBacklog,
        executor: Executor,
        worker: str,
        lease: float,
        metrics: Metrics,
        on_broken: Callable[[], None],
    ) -> None:
        """`on_broken` is called when this consumer cannot go on."""
        self._backlog, self._executor, self.worker, self._lease = backlog, executor, worker, lease
        self._motion = Motion(executor.slots, metrics)
        self._on_broken = on_broken
        self._woken = asyncio.Event()
        self._stopping = False
        self._waking_others = False
        self._pace = Pace()
        self._taken = 0  # slots
        self._held: set[Claim] = set()  # until it is settled; after a hang the same job may be here twice
        self._tasks: set[asyncio.Task[None]] = set()  # what runs, and what is settled
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> bool:
        """Take the lease and begin to claim. Raises StoreError; after StoreBusy it may be called again."""
        await self._backlog.extend(self.worker, self._lease)
        self._backlog.on_wake(self._woken.set)
        self._loops = [
            asyncio.create_task(self._forever(self._claim, 0.0, while_draining=False)),
            # These two go on: without a lease, what still runs in a drain would be given to others, and run twice.
            asyncio.create_task(self._forever(self._sweep, SWEEP)),
            asyncio.create_task(self._forever(self._extend, self._lease / 3)),
            asyncio.create_task(self._forever(self._backlog.prune, PRUNE)),
            # Apart from the sweep: a million that expire at once must not hold up what dead producers held.
            asyncio.create_task(self._forever(self._expire, SWEEP)),
            asyncio.create_task(self._forever(self._look, LOOK_FOR_STANDSTILL)),
        ]
        for loop in self._loops:
            loop.add_done_callback(self._loop_ended)
        return True

    def _loop_ended(self, loop: asyncio.Task[None]) -> None:
        if not loop.cancelled() and loop.exception():
            log.error("the consumer failed", exc_info=loop.exception())
            self._on_broken()  # or jobs would be accepted here, and never run

    def wake(self) -> None:
        """There is something to claim. Where no slot is free, another producer may have one."""
        if self.free > 0:
            self._woken.set()
        elif not self._waking_others:
            self._waking_others = True
            asyncio.get_running_loop().call_later(WAKE_OTHERS, self._wake_others)

    def _wake_others(self) -> None:
        self._waking_others = False
        self._backlog.wake_others()

    @property
    def free(self) -> int:
        """Slots that have nothing to do."""
        return self._executor.slots - self._taken

    @property
    def stalled(self) -> bool:
        return self._motion.stalled

    async def _forever(
        self, turn: Callable[[], Awaitable[bool | None]], pause: float, while_draining: bool = True
    ) -> None:
        """A turn says True where it did a part of what there is to do: the next one comes after BETWEEN_BITES."""
        while while_draining or not self._stopping:
            try:
                more = await turn()
            except StoreBroken:
                return  # the producer ends, AsyncBacklog has told it
            except StoreError as error:
                log.warning("the backlog does not answer: %s", error)
                await asyncio.sleep(RETRY_STORE)
                continue  # without the pause: a third of the lease may be more than is left of it
            await asyncio.sleep(BETWEEN_BITES if more else pause)

    async def _claim(self) -> None:
        self._woken.clear()
        free = self.free
        packs = self._pace.packs()
        claims = await self._backlog.claim(free, self.worker, packs) if free > 0 else []
        courses = self._courses(claims, free, packs)
        for course in courses:
            self._taken += 1
            self._held.update(course)
            self._do(self._run(course))
        if len(courses) < free or not free:
            await self._wait()

    def _courses(self, claims: Sequence[Claim], free: int, packs: Mapping[str, int]) -> list[Sequence[Claim]]:
        """What runs in one slot together."""
        shares = [pack(claim.job.name, claim.crashes, claim.losses, packs) for claim in claims]
        return [claims[part] for part in spread(shares, free)] if claims else []

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._loop_ended(task)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(LOOK):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _run(self, claims: Sequence[Claim]) -> None:
        try:
            known = [claim for claim in claims if self._admit(claim)]
            if known:
                kind = "process" if needs_process(known[0]) else registry.find(known[0].job.name).kind
                await self._executor.run(known, kind, self)
        finally:
            self._taken -= 1
            self._woken.set()

    def _admit(self, claim: Claim) -> bool:
        """Whether it can run here; else it is handed back."""
        tell(f"scheduling {claim.job.label}")
        try:
            registry.find(claim.job.name)
        except UnknownJob as error:  # accepted by a producer that knows it: another release, other settings
            self._motion.passed()
            self.ended(claim, Returned(str(error), delay=UNKNOWN_AGAIN))
            return False
        self._motion.waits(claim)
        return True

    def began(self, claim: Claim) -> None:
        self._motion.began(claim)

    def ended(self, claim: Claim, outcome: Outcome) -> None:
        self._learn(claim, outcome)
        self._motion.ended(claim, outcome)
        self._do(self._settle(claim, outcome))

    def _learn(self, claim: Claim, outcome: Outcome) -> None:
        """Only what runs in processes shares a slot: a thread cannot be ended for those behind it."""
        if outcome is NOT_BEGUN:
            self._pace.ran(claim.job.name, None, 0)  # what waits in vain had better have a slot to itself
        elif not isinstance(outcome, (Returned, Cancelled)) and registry.find(claim.job.name).kind == "process":
            size = len(outcome.result) if isinstance(outcome, Succeeded) else 0
            self._pace.ran(claim.job.name, outcome.seconds, size)

    async def _settle(self, claim: Claim, outcome: Outcome) -> None:
        try:
            settlement = retry.settle(claim, outcome, self.worker, backoff(claim), time.time())
            while True:
                try:
                    settled = await self._backlog.settle(settlement)
                    break
                except StoreBroken:
                    return  # others find what we hold, once we have ended
                except StoreError as error:  # what a job came to is not given up; the lease decides in the end
                    log.warning("settle: the backlog does not answer: %s", error)
                    await asyncio.sleep(RETRY_STORE)
            self._report(claim, outcome, settled)
        finally:
            self._motion.settled(claim)
            self._held.discard(claim)

    def _report(self, claim: Claim, outcome: Outcome, settled: bool) -> None:
        word, reason = retry.describe(outcome)
        if not settled:
            log.warning("attempt %d of %s came too late: %s", claim.attempt, claim.job.label, word)
        elif word == "succeeded":
            tell(f"Collected job: {claim.job.label}")
        elif outcome is NOT_BEGUN:
            log.debug("%s goes back: %s", claim.job.label, reason)
        else:
            log.warning(
                "attempt %d of %s: %s: %s",
                claim.attempt,
                claim.job.label,
                word,
                msgspec.json.encode(reason).decode(),
            )

    async def _sweep(self) -> bool:
        self._executor.retire()
        await self._backlog.measure()
        swept = await self._backlog.sweep(self.worker)
        if swept:
            self._woken.set()
            self._backlog.wake_others()
        await self._cancel()
        return swept >= PROMOTED

    async def _expire(self) -> bool:
        more = await self._backlog.expire()
        if more:
            self._woken.set()  # a claim that met only such jobs found nothing, whatever stands behind them
        return more

    async def _cancel(self) -> None:
        asked = set(await self._backlog.cancelling(self.worker))
        for claim in list(self._held):
            if (claim.job.id, claim.token) in asked:
                self._executor.kill(claim, Cancelled())

    async def _look(self) -> None:
        # What waits now may be back in the backlog before we hear of what is there.
        waits = self._motion.waiting
        oldest = await self._backlog.oldest()
        self._motion.looked(waits or oldest is not None)

    async def _extend(self) -> None:
        if not await self._backlog.extend(self.worker, self._lease):
            log.warning("this producer hung for more than its lease: its jobs were given to others")
            for claim in list(self._held):
                self._executor.kill(claim, Returned("the lease was lost"))

    async def stop(self, drain: float) -> None:
        """Claim no more; let what runs finish within `drain` seconds; give the rest back, attempt not counted."""
        claiming, *others = self._loops
        self._stopping = True
        self._woken.set()
        await asyncio.wait((claiming,))  # not cancelled: the jobs of a claim under way would wait for our lease to end
        with suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await self._quiet()
        self._executor.close("the producer stops")
        await self._quiet()
        for loop in others:
            loop.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _quiet(self) -> None:
        """Nothing runs, and all is settled."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def backoff(claim: Claim) -> float:
    """Of its function, in seconds; of one that is not known here nothing is retried."""
    try:
        return registry.find(claim.job.name).backoff
    except UnknownJob:
        return 0.0
