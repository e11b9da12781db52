"""A slot: runs jobs one at a time; an outcome comes out, never an exception.

A slot is a ProcessPoolExecutor with one worker. In a pool of many, one worker that dies breaks every future of the
pool, nothing has a time limit, and nothing that runs can be cancelled; in a slot the one to blame is known, to cancel
is to kill, and neighbours share nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import signal
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass

from msgspec.structs import replace

from service import linux, runner
from service.course import NOT_BEGUN, Course, Told
from service.job import Claim, Crashed, Outcome, Returned, TimedOut
from service.output import Output
from service.replies import Replies
from service.slotprocess import SlotContext

log = logging.getLogger(__name__)

START_TIMEOUT = 30.0  # seconds; a module that hangs when it is imported must not hold up every other slot for ever
UNKNOWN = 255  # also what multiprocessing says when the fork server, which reads the code, is gone
UNKNOWN_PATIENCE = 0.2  # seconds
DEATH_TIMEOUT = 1.0  # seconds a killed process may take to be gone, as promised
REPLY_MORE = 1 << 20  # bytes of a reply beyond its result: the traceback, as JSON at worst


@dataclass(frozen=True)
class Limits:
    """What every slot is given: the module of jobs, and how many bytes a process and a result may take."""

    jobs: str
    memory: int
    result_max: int


class ProcessSlot:
    """One process. Start, run, run, …, kill."""

    def __init__(self, limits: Limits) -> None:
        self._result_max = limits.result_max
        self._context = SlotContext()
        self._output = Output()
        self._replies = Replies(limits.result_max + REPLY_MORE)
        self._course: Course | None = None
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=self._context,
            initializer=runner.initialise,
            initargs=(
                limits.jobs,
                limits.memory,
                self._output.writer,
                self._output.mark,
                self._replies.writer,
                self._replies.recalled,
            ),
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
        self._replies.started()
        self._pidfd = os.pidfd_open(self._pid)  # readable from the moment of death, before anybody has reaped it
        self._death = select.poll()
        self._death.register(self._pidfd, select.POLLIN)

    def _give_up(self) -> None:
        self.alive = False
        log.error("a slot does not start: %s", json.dumps(self._output.rest()))
        process = getattr(self._context, "process", None)
        if process and process.pid:
            linux.kill_tree(process.pid)
        self._pool.shutdown(wait=False)
        self._close()

    def died(self) -> bool:
        """Also while it was idle: what an earlier job left in it may have ended it."""
        return bool(self._death.poll(0))

    async def run(self, claims: Sequence[Claim], told: Told) -> None:
        """Run these jobs one after the other; `told` hears of each. Returns when no more of them runs here."""
        self._killed = asyncio.get_running_loop().create_future()
        self._course = course = Course(claims, told, self._replies, self._output, self.kill)
        with self._output.followed(), self._replies.followed(course.readable):  # from before the first begins
            try:
                jobs = [(claim.job.name, claim.job.args, claim.attempt) for claim in claims]
                work = asyncio.wrap_future(self._pool.submit(runner.run_all, course.number, jobs, self._result_max))
            except BrokenExecutor:
                self.kill(Returned("the slot is gone"))
                course.stop(Returned("the slot had died before"))
            else:
                course.begin()
                await self._end_of(work)
                course.readable()
                course.stop(self._verdict(work, course.replied))
        self._course = None
        if not self.alive:
            self._close()

    def _close(self) -> None:
        self._output.close()
        self._replies.close()

    async def _end_of(self, work: asyncio.Future[int]) -> None:
        """After a kill it is not waited for without end."""
        await asyncio.wait((work, self._killed), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await asyncio.wait((work,), timeout=DEATH_TIMEOUT)
        if not work.done():
            work.cancel()

    def _verdict(self, work: asyncio.Future[int], replied: int) -> Outcome:
        """What the job comes to that the process is at, if there is one."""
        error = None if work.cancelled() else work.exception()
        if self._killed_because or work.cancelled() or isinstance(error, BrokenExecutor):
            return self._post_mortem()
        if error is None and work.result() == replied:
            return NOT_BEGUN
        reason = "the slot's process cannot reply any more: the job has closed what is not its own"
        self.kill(Crashed(f"{reason} ({error!r})" if error else reason))
        return Crashed(f"{reason} ({error!r})" if error else reason)

    def drop(self, claim: Claim, because: Outcome) -> None:
        """This job of those that run here is to come to `because`; to end one is to kill the slot that it is in."""
        if self._course:
            self._course.unwanted(claim, because)

    def kill(self, because: Outcome) -> None:
        """End the process and everything it started; the job that it is at comes to `because`."""
        self.alive = False
        self._killed_because = self._killed_because or because
        if self._pidfd:
            linux.kill_tree(self._pid)
            os.close(self._pidfd)
            self._pidfd = 0
        self._pool.shutdown(wait=False)
        if self._course is None:
            self._close()
        elif not self._killed.done():
            self._killed.set_result(None)

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

    async def run(self, claims: Sequence[Claim], told: Told) -> None:
        (claim,) = claims
        told.began(claim)
        told.ended(claim, await self._run(claim))

    async def _run(self, claim: Claim) -> Outcome:
        job = claim.job
        self._ended = asyncio.get_running_loop().create_future()
        work = asyncio.wrap_future(self._pool.submit(runner.run, job.name, job.args, claim.attempt, self._result_max))
        await asyncio.wait((work, self._ended), timeout=job.timeout, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            # These are the process's, the producer's that is: they say nothing of this job.
            return replace(runner.outcome(work.result()), cpu_seconds=None, max_rss=None)
        self.kill(TimedOut(job.timeout))
        return self._ended.result()

    def drop(self, claim: Claim, because: Outcome) -> None:
        self.kill(because)

    def kill(self, because: Outcome) -> None:
        """Stop waiting for the job, which then comes to `because`; the thread goes on until its call ends."""
        self.alive = False
        if self._ended and not self._ended.done():
            self._ended.set_result(because)
        self._pool.shutdown(wait=False)


Slot = ProcessSlot | ThreadSlot
SLOT: dict[str, type[ProcessSlot] | type[ThreadSlot]] = {"process": ProcessSlot, "thread": ThreadSlot}
