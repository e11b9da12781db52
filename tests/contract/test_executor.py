"""Slots with real processes: whatever a job does, an outcome comes out, and nobody else notices."""

import asyncio
import gc
import math
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from service import registry
from service.course import NOT_BEGUN
from service.executor import Executor
from service.job import Cancelled, Claim, Crashed, Job, Outcome, Raised, Returned, Succeeded, TimedOut, new_id
from service.output import KEPT
from service.retry import CRASHES, LOSSES, needs_process
from service.slots import Limits

HERE = Path(__file__).parent
JOBS = "hostile_jobs"
RESULT_MAX = 50_000  # bytes
SOON = 10.0  # seconds after which what we wait for does not come any more
GONE = 1.0  # seconds after its limit, within which a job and what it started are gone: a promise
SLACK = 8.0  # seconds that a loaded machine may add


@pytest.fixture(scope="module", autouse=True)
def jobs_module() -> Iterator[None]:
    """The fork server takes over the environment it is started in, and there is one in a process."""
    environment = pytest.MonkeyPatch()
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # as they are: `prepare` blocks some in this thread
    environment.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
    environment.syspath_prepend(HERE)
    known = dict(registry._functions)
    registry.load(JOBS)
    yield
    registry._functions.clear()
    registry._functions.update(known)
    sys.modules.pop(JOBS)
    environment.undo()
    signal.pthread_sigmask(signal.SIG_SETMASK, signals)  # or whatever later tests start could not be stopped


class TooLate(Exception):
    """A promised time is over. That may be the doing of a machine that stood still, so `in_slots` tries twice more."""


def in_time(it_was: bool) -> None:
    if not it_was:
        raise TooLate


class Told:
    """Hears of beginnings and ends."""

    def __init__(self) -> None:
        self.beginnings: list[Claim] = []
        self.ends: list[tuple[Claim, Outcome]] = []

    def began(self, claim: Claim) -> None:
        self.beginnings.append(claim)

    def ended(self, claim: Claim, outcome: Outcome) -> None:
        self.ends.append((claim, outcome))


class Slots:
    """An executor, and jobs for it by name."""

    def __init__(self, idle: float = 60.0, memory: int = 0) -> None:
        self.executor = Executor(4, idle, Limits(JOBS, memory, RESULT_MAX))
        self.executor.prepare()
        self.tokens = 0

    def run(
        self,
        name: str,
        limit: float = SOON,
        id: str | None = None,
        attempt: int = 1,
        losses: int = 0,
        crashes: int = 0,
        **args: Any,
    ) -> Awaitable[Outcome]:
        job = Job(id or new_id(), name, msgspec.json.encode(args), limit, 3)
        self.tokens += 1
        self.last = Claim(job, self.tokens, attempt, crashes, losses, 0.0)
        return self._run(self.last)

    async def _run(self, claim: Claim) -> Outcome:
        kind = "process" if needs_process(claim) else registry.find(claim.job.name).kind
        told = Told()
        await self.executor.run([claim], kind, told)
        ((_, outcome),) = told.ends
        return outcome


def in_slots(test: Callable[[Slots], Awaitable[None]], idle: float = 60.0, memory: int = 0) -> None:
    async def main() -> None:
        slots = Slots(idle, memory)
        try:
            async with asyncio.timeout(6 * SOON):
                await test(slots)
        finally:
            slots.executor.close("the test has ended")

    try:
        asyncio.run(main())
    except TooLate:  # a machine stands still now and then; what is slow is so again
        asyncio.run(main())
        asyncio.run(main())


def outcome_of(name: str, limit: float = SOON, within: float = math.inf, **args: Any) -> Outcome:
    """What a job comes to, within so many seconds, in a slot that is used before and after it."""
    outcomes: list[Outcome] = []

    async def test(slots: Slots) -> None:
        assert result(await slots.run("echo", value=1)) == 1
        started = time.monotonic()
        outcomes.append(await slots.run(name, limit, **args))
        in_time(time.monotonic() - started < within)
        assert result(await slots.run("echo", value=2)) == 2

    in_slots(test)
    return outcomes[-1]


def result(outcome: Outcome) -> Any:
    assert isinstance(outcome, Succeeded), outcome
    return msgspec.json.decode(outcome.result)


async def appears(path: Path) -> str:
    """The text of a file, once it is there. It is taken away: with another try there is another."""
    async with asyncio.timeout(SOON):
        while not path.exists():
            await asyncio.sleep(0.005)
    text = path.read_text()
    path.unlink()
    return text


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def ends(pid: int, within: float) -> bool:
    until = time.monotonic() + within
    while lives(pid) and time.monotonic() < until:
        await asyncio.sleep(0.01)
    return not lives(pid)


# what a function returns


@pytest.mark.parametrize("value", [None, 7, "Grüße \0", [1, {"a": [None, 2.5]}]])
def test_what_the_function_returns_comes_back_as_json(value: Any) -> None:
    assert result(outcome_of("echo", value=value)) == value


def test_the_function_can_know_its_attempt() -> None:
    async def test(slots: Slots) -> None:
        assert result(await slots.run("number_of_attempt", attempt=2)) == 2

    in_slots(test)


def test_cpu_seconds_are_measured() -> None:
    outcome = outcome_of("sleeps", seconds=0.05)
    assert isinstance(outcome, Succeeded)
    assert outcome.cpu_seconds is not None
    assert 0 <= outcome.cpu_seconds < 0.05


@pytest.mark.parametrize(
    ("what", "type"),
    [
        ("object", "TypeError"),
        ("bytes", "TypeError"),
        ("set", "TypeError"),
        ("nan", "ValueError"),
        ("surrogate", "UnicodeEncodeError"),
        ("deep", "RecursionError"),
    ],
)
def test_a_result_that_is_not_json_fails_the_attempt(what: str, type: str) -> None:
    outcome = outcome_of("returns", what=what)
    assert isinstance(outcome, Raised)
    assert outcome.type == type


def test_a_result_that_is_too_large_fails_the_attempt() -> None:
    outcome = outcome_of("returns", what="large")
    assert isinstance(outcome, Raised)
    assert "RESULT_MAX=50000" in outcome.message


# what a function raises


def test_an_exception_comes_back_with_type_message_and_traceback() -> None:
    outcome = outcome_of("raises", message="on purpose")
    assert isinstance(outcome, Raised)
    assert (outcome.type, outcome.message) == ("ValueError", "on purpose")
    assert "raise ValueError(message)" in outcome.traceback
    assert "registry.py" not in outcome.traceback, "our own frames tell the user nothing"


@pytest.mark.parametrize(
    ("name", "args", "type"),
    [
        ("says_exit", {"code": 3}, "SystemExit"),
        ("says_exit", {"code": 0}, "SystemExit"),
        ("interrupts", {}, "KeyboardInterrupt"),
        ("raises_unpicklable", {}, "TwoPart"),
        ("raises_without_message", {}, "NoMessage"),
        ("raises_lone_surrogate", {}, "ValueError"),
        ("raises_deep_group", {}, "ExceptionGroup"),
    ],
)
def test_whatever_is_raised_fails_the_attempt_alone(name: str, args: dict[str, Any], type: str) -> None:
    outcome = outcome_of(name, **args)
    assert isinstance(outcome, Raised)
    assert outcome.type == type
    assert (outcome.message + outcome.traceback).encode()  # UTF-8 can hold it


def test_a_long_message_is_cut() -> None:
    outcome = outcome_of("raises_long", characters=1_000_000)
    assert isinstance(outcome, Raised)
    assert len(outcome.message) + len(outcome.traceback) < 25_000


def test_an_exception_whose_message_exits_fails_the_attempt_alone() -> None:
    outcome = outcome_of("raises_message_that_exits")
    assert isinstance(outcome, Raised)
    assert outcome.type == "MessageThatExits"


# crashes


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("exits", {"code": 3}, "exited with code 3"),
        ("exits", {"code": 0}, "exited with code 0"),
        ("kills_itself", {"signum": 9}, "SIGKILL"),
        ("kills_itself", {"signum": 6}, "SIGABRT"),
        ("segfaults", {}, "SIGSEGV"),
    ],
)
def test_a_crash_fails_the_attempt_and_says_what_killed_the_slot(name: str, args: dict[str, Any], reason: str) -> None:
    outcome = outcome_of(name, **args)
    assert isinstance(outcome, Crashed)
    # Not strict, and only from here on: two threads read the exit code from one pipe, and it is a race.
    assert reason in outcome.reason


def test_a_stop_signal_does_not_reach_a_slot() -> None:
    assert outcome_of("kills_itself", limit=0.3, signum=15) == TimedOut(0.3)


def test_a_crash_leaves_its_neighbours_untouched(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        neighbour = asyncio.ensure_future(slots.run("waits_for", path=str(tmp_path / "go")))
        for _ in range(3):
            assert isinstance(await slots.run("exits", code=1), Crashed)
        assert not neighbour.done()
        (tmp_path / "go").touch()
        assert result(await neighbour) == "seen"

    in_slots(test)


def test_what_a_crashed_job_had_started_is_gone(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        outcome = await slots.run("leaves_grandchild_and_crashes", path=str(tmp_path / "pid"))
        assert isinstance(outcome, Crashed)
        in_time(await ends(int((tmp_path / "pid").read_text()), GONE))

    in_slots(test)


def test_the_death_of_an_idle_slot_costs_no_job_an_attempt() -> None:
    async def test(slots: Slots) -> None:
        pid = result(await slots.run("own_pid"))
        psutil.Process(pid).kill()
        while psutil.pid_exists(pid):  # all of its threads, and reaped
            await asyncio.sleep(0.01)
        outcome = await slots.run("echo", value=1)
        assert isinstance(outcome, Succeeded | Returned), outcome

    in_slots(test)


# limits


def test_over_its_limit_a_job_and_what_it_started_are_gone(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        await slots.run("echo")
        started = time.monotonic()
        assert await slots.run("starts_grandchild", limit=1.0, path=str(tmp_path / "pids")) == TimedOut(1.0)
        seconds = time.monotonic() - started
        assert seconds >= 1.0
        in_time(seconds < 1.0 + GONE)
        in_time((tmp_path / "pids").exists())
        for pid in (await appears(tmp_path / "pids")).split():
            in_time(await ends(int(pid), GONE))

    in_slots(test)


def test_over_its_limit_also_what_left_its_session_is_gone(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        outcome = await slots.run("starts_grandchild", limit=1.0, path=str(tmp_path / "pids"), own_session=True)
        assert outcome == TimedOut(1.0)
        in_time((tmp_path / "pids").exists())
        pid = int((await appears(tmp_path / "pids")).split()[1])
        try:
            in_time(await ends(pid, GONE))
        finally:
            if lives(pid):
                psutil.Process(pid).kill()

    in_slots(test)


def test_a_job_that_holds_the_interpreter_is_ended_at_its_limit() -> None:
    assert outcome_of("holds_the_interpreter", limit=0.2, within=0.2 + GONE) == TimedOut(0.2)


def test_a_job_that_ignores_sigterm_is_ended_at_its_limit(tmp_path: Path) -> None:
    assert outcome_of("ignores_sigterm", limit=0.3, path=str(tmp_path / "pid")) == TimedOut(0.3)


def test_many_jobs_over_their_limit_do_not_wait_for_each_other() -> None:
    async def test(slots: Slots) -> None:
        await asyncio.gather(*(slots.run("sleeps", seconds=0.01) for _ in range(4)))
        started = time.monotonic()
        outcomes = await asyncio.gather(*(slots.run("sleeps", limit=0.5, seconds=60.0) for _ in range(4)))
        assert outcomes == [TimedOut(0.5)] * 4
        in_time(time.monotonic() - started < 0.5 + GONE)

    in_slots(test)


# kill, retire, close


def test_a_job_that_is_killed_comes_to_the_reason_given(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        job = asyncio.ensure_future(slots.run("starts_grandchild", id="one", path=str(tmp_path / "pids")))
        pids = [int(pid) for pid in (await appears(tmp_path / "pids")).split()]
        assert slots.executor.kill(slots.last, Returned("on purpose"))
        assert await job == Returned("on purpose")
        assert not slots.executor.kill(slots.last, Returned("again"))
        for pid in pids:
            in_time(await ends(pid, GONE))

    in_slots(test)


def test_a_job_killed_as_it_starts_comes_to_an_outcome() -> None:
    async def test(slots: Slots) -> None:
        for _ in range(20):
            await slots.run("echo")  # so that a slot is idle, and taken without waiting
            job = asyncio.ensure_future(slots.run("sleeps", id="one", seconds=60.0))
            await asyncio.sleep(0)
            assert slots.executor.kill(slots.last, Returned("on purpose"))
            (outcome,) = await asyncio.gather(job, return_exceptions=True)
            assert outcome == Returned("on purpose")

    in_slots(test)


def test_close_returns_what_runs(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        job = asyncio.ensure_future(slots.run("starts_grandchild", path=str(tmp_path / "pids")))
        await appears(tmp_path / "pids")
        slots.executor.close("we stop")
        assert await job == Returned("we stop")

    in_slots(test)


def test_close_returns_what_waits_for_a_slot_to_start() -> None:
    async def test(slots: Slots) -> None:
        jobs = [asyncio.ensure_future(slots.run("sleeps", seconds=60.0)) for _ in range(3)]
        await asyncio.sleep(0)  # all three have asked for a slot, none can be there yet
        slots.executor.close("we stop")
        outcomes = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), SLACK)
        assert [type(outcome) for outcome in outcomes] == [Returned] * 3

    in_slots(test)


def test_a_job_claimed_again_while_its_lost_attempt_still_runs_has_two_outcomes(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        await asyncio.gather(*(slots.run("sleeps", seconds=0.05) for _ in range(2)))  # two slots are warm
        lost = asyncio.ensure_future(slots.run("waits_for", id="one", path=str(tmp_path / "first")))
        again = asyncio.ensure_future(slots.run("waits_for", id="one", path=str(tmp_path / "second")))
        await asyncio.sleep(0)
        (tmp_path / "first").touch()
        assert result(await lost) == "seen"
        (tmp_path / "second").touch()
        assert result(await again) == "seen"

    in_slots(test)


def test_slots_are_used_again_and_retire_when_idle() -> None:
    async def test(slots: Slots) -> None:
        pids = {result(await slots.run("own_pid")) for _ in range(5)}
        (pid,) = pids
        slots.executor.retire()
        assert not await ends(pid, within=0.05), "it has not been idle for long enough"
        slots.executor._idle_limit = 0.0
        slots.executor.retire()
        assert await ends(pid, within=SOON)
        assert result(await slots.run("echo", value=1)) == 1

    in_slots(test)


# threads


def test_a_thread_runs_in_this_process() -> None:
    assert str(result(outcome_of("thread_name"))).startswith("slot")


def test_an_exit_in_a_thread_fails_the_attempt_alone() -> None:
    outcome = outcome_of("thread_exits")
    assert isinstance(outcome, Raised)
    assert outcome.type == "SystemExit"


def test_a_thread_over_its_limit_is_left_to_itself(tmp_path: Path) -> None:
    try:
        assert outcome_of("thread_waits_for", limit=0.1, within=0.1 + GONE, path=str(tmp_path / "go")) == TimedOut(0.1)
    finally:
        (tmp_path / "go").touch()


# what it prints, and the memory it takes


def test_the_last_lines_that_an_attempt_printed_come_with_its_outcome() -> None:
    assert outcome_of("prints", lines=3).output == "line 0\nline 1\nline 2\n"


def test_each_attempt_has_its_own_lines() -> None:
    async def test(slots: Slots) -> None:
        await slots.run("prints", lines=1, text="first")
        assert (await slots.run("prints", lines=1, text="second")).output == "second 0\n"
        assert (await slots.run("echo", value=1)).output == ""

    in_slots(test)


def test_what_was_printed_before_a_crash_is_there() -> None:
    outcome = outcome_of("prints_and_exits", text="the reason")
    assert isinstance(outcome, Crashed)
    assert outcome.output == "the reason\n"


def test_a_segmentation_fault_says_where() -> None:
    assert "Segmentation fault" in outcome_of("segfaults").output
    assert "in segfaults" in outcome_of("segfaults").output


def test_a_hundred_megabytes_of_output_cost_the_job_time_and_nobody_memory() -> None:
    before = psutil.Process().memory_info().rss
    outcome = outcome_of("prints_below_python", megabytes=100)
    assert isinstance(outcome, Succeeded)
    assert outcome.output.endswith("the end")
    assert len(outcome.output) <= KEPT
    assert psutil.Process().memory_info().rss < before + (20 << 20)


def test_a_job_may_close_its_output() -> None:
    assert isinstance(outcome_of("closes_its_output"), Succeeded)


def test_what_a_job_has_left_behind_does_not_hold_up_the_next() -> None:
    async def test(slots: Slots) -> None:
        assert isinstance(await slots.run("leaves_a_printer"), Succeeded)
        assert result(await slots.run("echo", value=2)) == 2

    in_slots(test)


def test_what_is_no_text_is_replaced() -> None:
    assert "\x00" in outcome_of("prints_below_python", megabytes=1).output
    outcome = outcome_of("prints", lines=1, text="Grüße")
    assert outcome.output == "Grüße 0\n"


def test_a_job_that_takes_more_memory_than_it_may_fails_alone() -> None:
    async def test(slots: Slots) -> None:
        outcome = await slots.run("allocates", megabytes=400)
        assert isinstance(outcome, Raised), outcome
        assert outcome.type == "MemoryError"
        assert result(await slots.run("allocates", megabytes=10)) == 10 << 20

    in_slots(test, memory=256 << 20)


def test_slots_are_the_first_to_go_when_the_machine_runs_out_of_memory() -> None:
    async def test(slots: Slots) -> None:
        pid = result(await slots.run("own_pid"))
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
        assert Path("/proc/self/oom_score_adj").read_text().strip() != "1000"

    in_slots(test)


def test_after_three_lost_producers_a_thread_job_gets_a_process_of_its_own() -> None:
    async def test(slots: Slots) -> None:
        assert result(await slots.run("thread_pid", losses=LOSSES - 1)) == os.getpid()
        assert result(await slots.run("thread_pid", losses=LOSSES)) != os.getpid()

    in_slots(test)


def test_no_file_stays_open_when_slots_have_ended() -> None:
    async def test(slots: Slots) -> None:
        async def round_of_crashes() -> None:
            await asyncio.gather(*(slots.run("exits", code=1) for _ in range(4)))
            await asyncio.gather(*(slots.run("sleeps", limit=0.3, seconds=60) for _ in range(4)))

        def opened() -> int:
            gc.collect()
            return len(os.listdir("/proc/self/fd"))

        await round_of_crashes()
        before = opened()  # some of which are still to be closed: so three rounds
        for _ in range(3):
            await round_of_crashes()
        async with asyncio.timeout(20):  # the threads of the pools that ended let go of theirs when they get their turn
            while opened() > before + 2:  # and not one or two for each of eight slots
                await asyncio.sleep(0.1)

    in_slots(test)


def test_the_death_of_the_fork_server_is_nobodys_crash_alone(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        servers.append(result(await slots.run("parent_pid")))
        begun = [tmp_path / "one", tmp_path / "two"]
        running = [asyncio.ensure_future(slots.run("starts_grandchild", path=str(path))) for path in begun]
        for path in begun:
            await appears(path)
        os.kill(servers[0], signal.SIGKILL)
        for outcome in await asyncio.gather(*running):
            assert isinstance(outcome, Crashed)
            assert not outcome.alone
        servers.append(result(await slots.run("parent_pid")))

    servers: list[int] = []
    in_slots(test)
    assert len(set(servers)) == 2
    # It was started by a thread of this executor, and ends with that: the next test must not meet it.
    asyncio.run(ends(servers[1], SOON))


def test_a_job_that_is_killed_while_its_slot_starts_does_not_run(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        running = asyncio.ensure_future(slots.run("starts_grandchild", path=str(tmp_path / "ran")))
        await asyncio.sleep(0)
        assert slots.executor.kill(slots.last, Returned("not wanted any more"))
        assert await running == Returned("not wanted any more")
        assert not (tmp_path / "ran").exists()

    in_slots(test)


def test_a_job_that_waits_for_its_last_chance_can_be_cancelled_at_once(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        gate = tmp_path / "gate"
        last = CRASHES - 1
        first = asyncio.ensure_future(slots.run("waits_for", path=str(gate), crashes=last))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(slots.run("echo", value=2, crashes=last))
        await asyncio.sleep(0)
        assert slots.executor.kill(slots.last, Cancelled())
        assert await second == Cancelled()
        gate.write_text("go on")
        await first
        assert result(await slots.run("echo", value=3, crashes=last)) == 3

    in_slots(test)


def test_jobs_that_have_a_last_chance_run_one_at_a_time_beside_all_others(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        gate = tmp_path / "gate"
        last = CRASHES - 1
        first = asyncio.ensure_future(slots.run("waits_for", path=str(gate), crashes=last))
        second = asyncio.ensure_future(slots.run("echo", value=2, crashes=last))
        assert result(await slots.run("echo", value=3, crashes=last - 1)) == 3
        assert not second.done()
        gate.write_text("go on")
        await first
        assert result(await second) == 2

    in_slots(test)


# several in one slot, one after the other


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken back from a slot, nor is the slot ended, because it is slow."""
    monkeypatch.setattr("service.course.PATIENCE", SOON)
    monkeypatch.setattr("service.course.END_TIMEOUT", SOON)


PATIENT = pytest.mark.usefixtures("patience")


class Course:
    """Jobs that share a slot."""

    def __init__(self, slots: Slots, *jobs: tuple[str, dict[str, Any]], limits: dict[int, float] | None = None) -> None:
        self.told, limits = Told(), limits or {}
        self.claims = [
            Claim(Job(new_id(), name, msgspec.json.encode(args), limits.get(number, SOON), 3), 1, 1, 0, 0, 0.0)
            for number, (name, args) in enumerate(jobs)
        ]
        self.runs = asyncio.ensure_future(slots.executor.run(self.claims, "process", self.told))

    async def outcomes(self) -> list[Outcome]:
        """In the order of the jobs."""
        await self.runs
        ends = dict(self.told.ends)
        assert len(self.told.ends) == len(ends) == len(self.claims)
        return [ends[claim] for claim in self.claims]


@PATIENT
def test_jobs_that_share_a_slot_have_each_their_own_outcome_attempt_and_output() -> None:
    async def test(slots: Slots) -> None:
        one, two, three = await Course(
            slots, ("prints", {"lines": 2, "text": "first"}), ("raises", {"message": "second"}), ("own_pid", {})
        ).outcomes()
        assert isinstance(one, Succeeded)
        assert one.output.split("\n") == ["first 0", "first 1", ""]
        assert isinstance(two, Raised)
        assert (two.message, two.output) == ("second", "")
        assert result(three) == result(await slots.run("own_pid"))

    in_slots(test)


@PATIENT
def test_of_jobs_that_share_a_slot_only_the_one_that_ends_it_is_blamed(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        ran = tmp_path / "ran"
        course = Course(
            slots,
            ("echo", {"value": 1}),
            ("exits", {"code": 3}),
            ("starts_grandchild", {"path": str(ran)}),
            ("echo", {}),
        )
        first, exits, *behind = await course.outcomes()
        assert result(first) == 1
        assert exits == Crashed("the slot's process exited with code 3")
        assert behind == [NOT_BEGUN] * 2
        assert course.told.beginnings == course.claims[:2]
        assert not ran.exists()

    in_slots(test)


@PATIENT
def test_each_job_that_shares_a_slot_has_its_own_limit() -> None:
    async def test(slots: Slots) -> None:
        jobs = [("sleeps", {"seconds": seconds}) for seconds in (0.5, 60.0, 0.5)]
        started = time.monotonic()
        one, two, three = await Course(slots, *jobs, limits={0: 9.0, 1: 0.3, 2: 9.0}).outcomes()
        assert result(one) == "slept"
        assert two == TimedOut(0.3)
        assert three == NOT_BEGUN
        in_time(time.monotonic() - started < 0.5 + 0.3 + GONE)

    in_slots(test)


def test_nobody_is_stuck_behind_a_long_job(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        gate, ran = tmp_path / "gate", tmp_path / "ran"
        course = Course(slots, ("waits_for", {"path": str(gate)}), *[("starts_grandchild", {"path": str(ran)})] * 3)
        async with asyncio.timeout(SOON):
            while len(course.told.ends) < 3:
                await asyncio.sleep(0.01)
        assert course.told.ends == [(claim, NOT_BEGUN) for claim in course.claims[1:]]
        assert not course.runs.done()
        gate.write_text("go on")
        assert result((await course.outcomes())[0]) == "seen"
        assert not ran.exists()
        assert result(await slots.run("echo", value=1)) == 1  # the slot is good for others

    in_slots(test)


@PATIENT
def test_a_job_that_waits_behind_another_in_its_slot_can_be_cancelled(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        ran = tmp_path / "ran"
        course = Course(slots, ("sleeps", {"seconds": 0.05}), ("starts_grandchild", {"path": str(ran)}), ("echo", {}))
        while not course.told.beginnings:
            await asyncio.sleep(0)
        assert slots.executor.kill(course.claims[1], Cancelled())
        one, two, three = await course.outcomes()
        assert (result(one), two, three) == ("slept", Cancelled(), NOT_BEGUN)

    in_slots(test)


def test_a_stop_ends_what_runs_and_what_waits_behind_it() -> None:
    async def test(slots: Slots) -> None:
        course = Course(slots, ("sleeps", {"seconds": 60}), ("echo", {}))
        while not course.told.beginnings:
            await asyncio.sleep(0)
        slots.executor.close("the producer stops")
        assert await course.outcomes() == [Returned("the producer stops"), NOT_BEGUN]

    in_slots(test)


@PATIENT
def test_a_child_that_a_job_has_forked_does_not_answer_for_it(tmp_path: Path) -> None:
    async def test(slots: Slots) -> None:
        course = Course(slots, ("forks_and_comes_back", {}), ("echo", {"value": 2}), ("own_pid", {}))
        forked, two, three = await course.outcomes()
        assert (result(forked), result(two)) == ("parent", 2)
        assert result(three) == result(await slots.run("own_pid"))

    in_slots(test)


@pytest.mark.parametrize("behind", [0, 1])
def test_a_job_that_closes_everything_is_ended_at_its_limit_all_the_same(behind: int) -> None:
    async def test(slots: Slots) -> None:
        started = time.monotonic()
        jobs = [("closes_everything_and_sleeps", {}), *[("echo", {"value": 2})] * behind]
        first, *others = await Course(slots, *jobs, limits={0: 0.4}).outcomes()
        assert isinstance(first, (TimedOut, Crashed))
        assert others == [NOT_BEGUN] * behind
        in_time(time.monotonic() - started < 0.4 + GONE)
        assert result(await slots.run("echo", value=3)) == 3

    in_slots(test)


@PATIENT
def test_a_cancel_that_comes_too_late_hits_nobody_else(tmp_path: Path) -> None:
    """The loop was busy: the process has gone on, and its replies are still to be read."""

    async def test(slots: Slots) -> None:
        gate, begun = tmp_path / "gate", tmp_path / "begun"
        jobs = [("echo", {"value": n}) for n in range(3)]
        fourth = ("waits_for", {"path": str(gate), "begun": str(begun)})
        course = Course(slots, *jobs, fourth, ("echo", {"value": 4}))
        while not course.told.beginnings:
            await asyncio.sleep(0)
        while not begun.exists():
            time.sleep(0.005)  # the event loop stands still
        assert slots.executor.kill(course.claims[1], Cancelled())
        gate.write_text("go on")
        outcomes = await course.outcomes()
        assert [result(outcome) for outcome in outcomes[:3]] == [0, 1, 2]
        assert Cancelled() not in outcomes

    in_slots(test)
