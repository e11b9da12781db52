"""Slots, as many as there may be: started on demand, kept, ended when they are idle."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver, resource_tracker

from service.course import Told
from service.job import Claim, Outcome, Returned
from service.retry import last_chance
from service.slots import SLOT, Limits, Slot

log = logging.getLogger(__name__)

START_AGAIN = 1.0  # seconds; a job that goes straight back would be claimed again at once, in a tight loop

# What every slot needs, imported once in the fork server: a slot then starts in a fifth of the time.
PRELOAD = [
    "service.forkserver",
    "service.runner",
    "service.slotprocess",
    "concurrent.futures.process",
    "multiprocessing.queues",
]


def start_fork_server() -> None:
    """Where none runs. Afterwards this thread has the stop signals blocked."""
    # Blocked in the fork server from its birth: a Ctrl-C while it boots would end it, and every job with it.
    # The resource tracker comes first, since its start unblocks them.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    forkserver.ensure_running()


class Executor:
    """Up to `slots` jobs at once. Slots start on demand, and end when they had nothing to do for `idle` seconds."""

    def __init__(self, slots: int, idle: float, limits: Limits) -> None:
        self.slots = slots
        self._idle_limit, self._limits = idle, limits
        self._idle: dict[str, list[tuple[float, Slot]]] = {kind: [] for kind in SLOT}
        self._starting: dict[Claim, asyncio.Future[Outcome]] = {}  # why it must not run after all
        self._busy: dict[Claim, Slot] = {}
        self._closed_because: Returned | None = None
        self._last_chance = asyncio.Lock()
        # One long-lived thread, since forking takes 15 ms that the event loop does not have.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="slot-starter")

    def prepare(self) -> None:
        """Start the fork server. Call from the main thread, which lives as long as the process: the kernel ends
        the fork server with the thread that started it."""
        assert threading.current_thread() is threading.main_thread()
        multiprocessing.set_forkserver_preload([*PRELOAD, self._limits.jobs])
        start_fork_server()

    async def run(self, claims: Sequence[Claim], kind: str, told: Told) -> None:
        """Run claimed jobs to their ends, one after the other in one slot; `told` hears of each, exactly once of its
        end. One that has a last chance comes alone, and only runs while no other such does: those that were together
        when a fork server died again and again are told apart by it."""
        for claim in claims:
            self._starting[claim] = asyncio.get_running_loop().create_future()
        if last_chance(claims[0]):
            await self._run_alone(claims[0], kind, told)
        else:
            await self._run(claims, kind, told)

    async def _run_alone(self, claim: Claim, kind: str, told: Told) -> None:
        turn = asyncio.ensure_future(self._last_chance.acquire())
        await asyncio.wait((turn, self._starting[claim]), return_when=asyncio.FIRST_COMPLETED)
        if turn.cancel():
            return told.ended(claim, self._starting.pop(claim).result())
        try:
            await self._run([claim], kind, told)
        finally:
            self._last_chance.release()

    async def _run(self, claims: Sequence[Claim], kind: str, told: Told) -> None:
        slot, trouble = await self._try_to_take(kind)
        wanted: list[Claim] = []
        for claim in claims:
            unwanted = self._starting.pop(claim)
            because = self._closed_because or (unwanted.result() if unwanted.done() else trouble)
            if because:
                told.ended(claim, because)
            else:
                wanted.append(claim)
        if slot is None:
            return
        if self._closed_because:
            return slot.kill(self._closed_because)
        if wanted:
            self._busy |= dict.fromkeys(wanted, slot)
            await slot.run(wanted, told)
            for claim in wanted:
                del self._busy[claim]
        self._give_back(kind, slot)

    async def _try_to_take(self, kind: str) -> tuple[Slot | None, Returned | None]:
        if self._closed_because:
            return None, self._closed_because
        try:
            return await self._take(kind), None
        except Exception as error:  # whatever it is: the jobs did not run
            log.error("a slot cannot start: %r", error)
            await asyncio.sleep(START_AGAIN)
            return None, Returned(f"a slot cannot start: {error!r}")

    async def _take(self, kind: str) -> Slot:
        while self._idle[kind]:
            idle = self._idle[kind].pop()[1]
            if not idle.died():
                return idle
            idle.kill(Returned("it had died"))
        slot: Slot = SLOT[kind](self._limits)
        await asyncio.get_running_loop().run_in_executor(self._starter, self._start, slot)
        return slot

    def _start(self, slot: Slot) -> None:
        if not self._closed_because:
            start_fork_server()  # it may have been killed, and multiprocessing would start it without our care
            slot.start()

    def _give_back(self, kind: str, slot: Slot) -> None:
        if slot.alive:
            self._idle[kind].append((asyncio.get_running_loop().time(), slot))

    def retire(self) -> None:
        """End the slots that have been idle for too long; the most recently used stay."""
        longest_ago = asyncio.get_running_loop().time() - self._idle_limit
        for kind, idle in self._idle.items():
            for since, slot in idle:
                if since < longest_ago:
                    slot.kill(Returned("idle"))
            self._idle[kind] = [(since, slot) for since, slot in idle if slot.alive]

    def kill(self, claim: Claim, because: Outcome) -> bool:
        """End this attempt, if it runs here, or is about to."""
        if unwanted := self._starting.get(claim):
            if not unwanted.done():
                unwanted.set_result(because)
            return True
        slot = self._busy.get(claim)
        if slot:
            slot.drop(claim, because)
        return slot is not None

    def close(self, because: str) -> None:
        """Kill every slot; the jobs in them come to Returned."""
        self._closed_because = Returned(because)
        for unwanted in self._starting.values():
            if not unwanted.done():
                unwanted.set_result(self._closed_because)
        for slot in [*set(self._busy.values()), *(slot for idle in self._idle.values() for _, slot in idle)]:
            slot.kill(Returned(because))
        self._starter.shutdown(wait=False)
