"""Slots: an outcome comes out, never an exception.

A slot is a ProcessPoolExecutor with one worker and one job in flight. In a pool of many, one worker that dies
breaks every future of the pool, nothing has a time limit, and nothing that runs can be cancelled; in a slot the
one to blame is known, to cancel is to kill, and neighbours share nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import select
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import forkserver, resource_tracker

from service import linux, runner
from service.job import Claim, Crashed, Outcome, Returned, TimedOut
from service.output import Output
from service.registry import Function
from service.retry import last_chance
from service.slotprocess import SlotContext

log = logging.getLogger(__name__)

START_TIMEOUT = 30.0  # seconds; a module that hangs when it is imported must not hold up every other slot for ever
START_AGAIN = 1.0  # seconds; a job that goes straight back would be claimed again at once, in a tight loop
LOSSES = 3  # a job that was there when so many producers died gets a process of its own, to die in alone
UNKNOWN = 255  # also what multiprocessing says when the fork server, which reads the code, is gone
UNKNOWN_PATIENCE = 0.2  # seconds
DEATH_TIMEOUT = 1.0  # seconds a killed process may take to be gone, as promised

# What every slot needs, imported once in the fork server: a slot then starts in a fifth of the time.
PRELOAD = [
    "service.forkserver",
    "service.runner",
    "service.slotprocess",
    "concurrent.futures.process",
    "multiprocessing.queues",
]


@dataclass(frozen=True)
class Limits:
    """What every slot is given: the module of jobs, and how many bytes a process and a result may take."""

    jobs: str
    memory: int
    result_max: int


class ProcessSlot:
    """One process that runs one job at a time. Start, run, run, …, kill."""

    def __init__(self, limits: Limits) -> None:
        self._result_max = limits.result_max
        self._context = SlotContext()
        self._output = Output()
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=self._context,
            initializer=runner.initialise,
            initargs=(limits.jobs, limits.memory, self._output.writer),
        )
        self.alive = True
        self._pidfd = 0  # until it has started, and after it has ended
        self._killed_because: Outcome | None = None

    def start(self) -> None:
        """Blocks until the process is there. Raises BrokenExecutor or TimeoutError when it cannot start."""
        try:
            self._pid, self._fork_server = self._pool.submit(runner.family).result(START_TIMEOUT)
        except Exception:
            self._give_up()
            raise
        self._output.writer.close()  # so that the reader sees the end of the process
        self._pidfd = os.pidfd_open(self._pid)  # readable from the moment of death, before anybody has reaped it
        self._death = select.poll()
        self._death.register(self._pidfd, select.POLLIN)

    def _give_up(self) -> None:
        self.alive = False
        log.error("a slot does not start: %s", json.dumps(self._output.text()))
        process = getattr(self._context, "process", None)
        if process and process.pid:
            linux.kill_tree(process.pid)
        self._pool.shutdown(wait=False)
        self._output.close()

    def died(self) -> bool:
        """Also while it was idle: what an earlier job left in it may have ended it."""
        return bool(self._death.poll(0))

    async def run(self, claim: Claim, timeout: float) -> Outcome:
        job = claim.job
        with self._output.followed():  # from before the job begins
            try:
                work = self._pool.submit(runner.run, job.name, job.args, claim.attempt, self._result_max)
            except BrokenExecutor:
                self.kill(Returned("the slot is gone"))
                return Returned("the slot had died before")
            outcome = await self._outcome(asyncio.wrap_future(work), timeout)
            return replace(outcome, output=self._output.text())

    async def _outcome(self, future: asyncio.Future[runner.Reply], timeout: float) -> Outcome:
        try:
            await asyncio.wait((future,), timeout=timeout)
            if not future.done():
                self.kill(TimedOut(timeout))
            return runner.outcome(await asyncio.wait_for(future, DEATH_TIMEOUT if not self.alive else None))
        except (BrokenExecutor, TimeoutError):
            return self._post_mortem()

    def kill(self, because: Outcome) -> None:
        """End the process and everything it started; the job in it comes to `because`."""
        self.alive = False
        self._killed_because = self._killed_because or because
        if self._pidfd:
            linux.kill_tree(self._pid)
            os.close(self._pidfd)
            self._pidfd = 0
        self._pool.shutdown(wait=False)
        self._output.close()

    def _post_mortem(self) -> Outcome:
        killed_because = self._killed_because
        self.kill(Returned("the slot is gone"))  # what the job started may still be there
        if killed_because:
            return killed_because
        self._context.process.join(DEATH_TIMEOUT)
        exitcode = self._context.process.exitcode
        # It closes its files, of which we hear at once, a moment before it has ended.
        if linux.ends(self._fork_server, UNKNOWN_PATIENCE if exitcode == UNKNOWN else 0.0):
            return Crashed("the fork server died, and every slot of this producer with it", alone=False)
        return Crashed(death(exitcode))


def death(exitcode: int | None) -> str:
    """Why a process died, in words. `exitcode` as multiprocessing has it: negative for a signal."""
    if exitcode is None:
        return "the slot's process died, or closed its end of the pool; nobody knows how"
    if exitcode >= 0:
        return f"the slot's process exited with code {exitcode}"
    name = signal.Signals(-exitcode).name if -exitcode in signal.valid_signals() else f"signal {-exitcode}"
    hint = " (probably out of memory, or killed by hand)" if exitcode == -signal.SIGKILL else ""
    return f"the slot's process was killed by {name}{hint}"


class ThreadSlot:
    """One thread that runs one job at a time. It cannot be killed, only left to itself."""

    def __init__(self, limits: Limits) -> None:
        self._result_max = limits.result_max
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="slot")
        self._ended: asyncio.Future[Outcome] | None = None
        self.alive = True

    def start(self) -> None:
        """Nothing to wait for."""

    def died(self) -> bool:
        return False

    async def run(self, claim: Claim, timeout: float) -> Outcome:
        job = claim.job
        self._ended = asyncio.get_running_loop().create_future()
        work = asyncio.wrap_future(self._pool.submit(runner.run, job.name, job.args, claim.attempt, self._result_max))
        await asyncio.wait((work, self._ended), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            # These are the process's, the producer's that is: they say nothing of this job.
            return replace(runner.outcome(work.result()), cpu_seconds=None, max_rss=None)
        self.kill(TimedOut(timeout))
        return self._ended.result()

    def kill(self, because: Outcome) -> None:
        """Stop waiting for the job, which then comes to `because`; the thread goes on until its call ends."""
        self.alive = False
        if self._ended and not self._ended.done():
            self._ended.set_result(because)
        self._pool.shutdown(wait=False)


Slot = ProcessSlot | ThreadSlot
SLOT: dict[str, type[ProcessSlot] | type[ThreadSlot]] = {"process": ProcessSlot, "thread": ThreadSlot}


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

    async def run(self, claim: Claim, function: Function, began: Callable[[], None] = lambda: None) -> Outcome:
        """Run one claimed job to its end; `began` is called when it has its slot. One that has a last chance only
        runs while no other such does: those that were together when a fork server died again and again are told
        apart by it."""
        unwanted = self._starting[claim] = asyncio.get_running_loop().create_future()
        kind = function.kind if claim.losses < LOSSES else "process"
        if not last_chance(claim):
            return await self._run(claim, kind, began)
        turn = asyncio.ensure_future(self._last_chance.acquire())
        await asyncio.wait((turn, unwanted), return_when=asyncio.FIRST_COMPLETED)
        if turn.cancel():
            return self._starting.pop(claim).result()
        try:
            return await self._run(claim, kind, began)
        finally:
            self._last_chance.release()

    async def _run(self, claim: Claim, kind: str, began: Callable[[], None]) -> Outcome:
        try:
            slot = await self._take(kind)
        except Exception as error:  # whatever it is: the job did not run
            log.error("a slot cannot start: %r", error)
            await asyncio.sleep(START_AGAIN)
            unwanted = self._starting[claim]
            return unwanted.result() if unwanted.done() else Returned(f"a slot cannot start: {error!r}")
        finally:
            unwanted = self._starting.pop(claim)
        if self._closed_because:
            slot.kill(self._closed_because)
            return self._closed_because
        if unwanted.done():
            self._give_back(kind, slot)
            return unwanted.result()
        self._busy[claim] = slot
        began()
        try:
            return await slot.run(claim, claim.job.timeout)
        finally:
            del self._busy[claim]
            self._give_back(kind, slot)

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
            slot.kill(because)
        return slot is not None

    def close(self, because: str) -> None:
        """Kill every slot; the jobs in them come to Returned."""
        self._closed_because = Returned(because)
        for slot in [*self._busy.values(), *(slot for idle in self._idle.values() for _, slot in idle)]:
            slot.kill(Returned(because))
        self._starter.shutdown(wait=False)
