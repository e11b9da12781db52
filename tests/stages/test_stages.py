"""Each stage of the ladder behaves as the ladder says: real servers, real clients, short jobs."""

from __future__ import annotations

import ast
import asyncio
import difflib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import psutil
import pytest
import requests

from docs.render import source
from loadtest.contestant import Stage, stage
from service.stages import STAGES
from service.stages.producer_consumer import buffer, collect, futures
from tests.support import ROOT, all_gone, descendants, free_port, kept, wait_until

POOL = 20
WAITING = ("sleep", {"seconds": 1.0})
COMPUTING = ("primes", {"limit": 300_000})

# How many lines of code may differ between neighbours, or the lesson drowns.
NEIGHBOURS = [
    ("hello", "blocking", 4),
    ("blocking", "forked", 3),
    ("forked", "coroutine", 10),
    ("coroutine", "thread_executor", 20),
    ("thread_executor", "process_executor", 22),
    ("process_executor", "producer_consumer", 36),
]


def changed(before: str, after: str) -> int:
    """Lines of code that go or come from one stage to the next: comments and docstrings are not code."""
    first, second = (ast.unparse(ast.parse(source(stage))).splitlines() for stage in (before, after))
    return sum(text[0] in "+-" for text in difflib.ndiff(first, second))


def pid(server: Stage) -> int:
    assert server.process
    return server.process.pid


def ask(server: Stage, number: int, method: str = "GET", timeout: float = 30) -> str:
    response = requests.request(method, server.url, json={"job_id": number}, timeout=timeout)
    assert response.status_code == 200, response.text
    return response.text


def ask_at_once(server: Stage, count: int, method: str = "GET") -> tuple[list[str], list[float]]:
    """The answers, and after how many seconds each came, the quickest first."""
    began = time.monotonic()

    def one(number: int) -> tuple[str, float]:
        return ask(server, number, method), time.monotonic() - began

    with ThreadPoolExecutor(count) as clients:
        answers = list(clients.map(one, range(count)))
    return [text for text, _ in answers], sorted(seconds for _, seconds in answers)


def longest_wait(server: Stage) -> float:
    """How long somebody else's cheap request waited at most while one job was done; the job's own time is 1."""
    waits = []
    with ThreadPoolExecutor(1) as client:
        began = time.monotonic()
        job = client.submit(ask, server, 1)
        while not job.done():
            asked = time.monotonic()
            assert requests.get(server.url, data="no job", timeout=30).status_code == 400
            waits.append(time.monotonic() - asked)
        job.result()
    return max(waits) / (time.monotonic() - began)


def test_hello_answers_and_does_nothing() -> None:
    with stage("hello", "sleep", {"seconds": 1.0}) as server:
        assert ask(server, 7) == "7 done\n"
        assert server.finished() == set()


@pytest.mark.parametrize(("name", "job"), [("blocking", WAITING), ("blocking", COMPUTING), ("coroutine", COMPUTING)])
def test_a_handler_that_keeps_the_thread_keeps_everyone_waiting(name: str, job: tuple[str, dict[str, float]]) -> None:
    with stage(name, *job) as server:
        assert longest_wait(server) > 0.5


@pytest.mark.parametrize(
    ("name", "job"),
    [("coroutine", WAITING)] + [(name, job) for name in STAGES[4:6] for job in (WAITING, COMPUTING)],
)
def test_a_handler_that_awaits_lets_others_through(name: str, job: tuple[str, dict[str, float]]) -> None:
    with stage(name, *job) as server:
        assert kept(lambda: longest_wait(server) < 0.5)


def test_blocking_serves_one_at_a_time() -> None:
    with stage("blocking", "sleep", {"seconds": 0.2}) as server:
        answers, seconds = ask_at_once(server, 5)
    assert answers == [f"{number} done\n" for number in range(5)]
    assert seconds[-1] > 5 * 0.2


def test_forked_serves_as_many_at_a_time_as_there_are_cores() -> None:
    with stage("forked", "sleep", {"seconds": 0.2}) as server:
        cores = os.cpu_count() or 1
        wait_until(lambda: len(descendants(pid(server))) == cores, "a process per core")
        answers, seconds = ask_at_once(server, 3 * cores)
    assert len(answers) == 3 * cores
    assert seconds[-1] > 3 * 0.2


@pytest.mark.parametrize(
    ("name", "method"),
    [("coroutine", "GET"), ("thread_executor", "GET"), ("thread_executor", "POST"), ("process_executor", "GET")],
)
def test_ten_waiting_jobs_take_about_as_long_as_one(name: str, method: str) -> None:
    with stage(name, "sleep", {"seconds": 1.0}) as server:
        answers, seconds = ask_at_once(server, 10, method)
    assert answers == [f"{number} done\n" for number in range(10)]
    assert 1 <= seconds[-1] < 9


@pytest.mark.parametrize(("name", "one_by_one"), [("coroutine", True), ("thread_executor", False)])
def test_computing_jobs_are_done_one_by_one_in_a_coroutine_and_all_together_in_threads(
    name: str, one_by_one: bool
) -> None:
    def the_first_is_far_ahead() -> bool:
        _, seconds = ask_at_once(server, 10)
        return seconds[0] < seconds[-1] / 3

    with stage(name, "primes", {"limit": 100_000}) as server:
        assert kept(lambda: the_first_is_far_ahead() == one_by_one)


def test_computing_leaves_the_server_with_processes_and_not_with_threads() -> None:
    for name, inside in (("thread_executor", True), ("process_executor", False)):
        with stage(name, "primes", {"limit": 100_000}) as server:
            ask_at_once(server, 10)
            server_itself = psutil.Process(pid(server)).cpu_times().user
            workers = sum(child.cpu_times().user for child in descendants(pid(server)))
        assert (server_itself > workers) == inside, name


@pytest.mark.parametrize("name", ["thread_executor", "process_executor"])
def test_the_twenty_first_job_waits_for_a_place_in_the_pool(name: str) -> None:
    with stage(name, "sleep", {"seconds": 0.5}) as server:
        _, seconds = ask_at_once(server, POOL + 1)
    assert seconds[-1] > 2 * 0.5


def gives_up(server: Stage, number: int) -> bool:
    """Whether this client has gone before its answer came. One that stands still finds it there."""
    with suppress(requests.Timeout):
        ask(server, number, timeout=0.2)
        return False
    return True


@pytest.mark.parametrize("name", ["blocking", "thread_executor", "process_executor"])
def test_a_job_whose_client_has_gone_is_done_all_the_same(name: str) -> None:
    with stage(name, "sleep", {"seconds": 0.5}) as server:
        number = next(number for number in range(3) if gives_up(server, number))
        wait_until(lambda: str(number) in server.finished(), "the job nobody waits for")


@pytest.mark.parametrize("pool", ["thread", "process"])
def test_producer_consumer_answers_at_once_and_finishes_all(pool: str) -> None:
    def at_once() -> bool:
        with stage("producer_consumer", "sleep", {"seconds": 4.0}, "--pool", pool) as server:
            answers, _ = ask_at_once(server, POOL + 5)
            done = server.finished()
            assert answers == [f"{number} add\n" for number in range(POOL + 5)]
            wait_until(lambda: len(server.finished()) == POOL + 5, "all jobs done")
        return not done

    assert kept(at_once)


def test_producer_consumer_puts_a_failed_job_back() -> None:
    async def collect_one() -> Any:
        failed: Future[None] = Future()
        failed.set_exception(RuntimeError("once more"))
        futures[failed] = 7
        chore = asyncio.create_task(collect())
        number = await asyncio.wait_for(buffer.get(), 10)
        chore.cancel()
        return number

    assert asyncio.run(collect_one()) == 7


def test_producer_consumer_forgets_at_a_kill_what_it_had_accepted() -> None:
    with stage("producer_consumer", "sleep", {"seconds": 2.0}) as server:
        ask_at_once(server, 4 * POOL)
        server.kill()
        done = server.finished()  # on a slow machine some are
        assert len(done) < 4 * POOL
        server.start()
        assert ask(server, 100) == "100 add\n"
        wait_until(lambda: "100" in server.finished(), "the new job")
        assert server.finished() - done == {"100"}


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "service", "stage", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_consumer_cannot_be_started_before_the_fork() -> None:
    with started("forked_consumer", "--port", str(free_port())) as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "FileExistsError" in output
    assert "Too many child restarts" in output


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", STAGES)
def test_a_stop_leaves_nothing_behind(name: str, signum: int) -> None:
    with stage(name, "sleep", {"seconds": 30.0}) as server:
        with suppress(requests.Timeout):
            ask(server, 1, timeout=0.3)  # a job under way, and the processes of the pool
        family = [psutil.Process(pid(server)), *descendants(pid(server))]
        os.killpg(pid(server), signum) if signum == signal.SIGINT else os.kill(pid(server), signum)
        assert server.process is not None
        assert server.process.wait(10) == 0
        wait_until(lambda: all_gone(family), "all processes gone")


def test_a_taken_port_and_wrong_words_are_told_in_a_sentence() -> None:
    with stage("hello", "sleep", {"seconds": 1.0}) as server, started("hello", "--port", str(server.port)) as second:
        output, _ = second.communicate(timeout=30)
        assert second.returncode == 1
        assert f"port {server.port}: Address already in use. Choose another with --port." in output
    for wrong in (["nope"], ["hello", "--port", "0"], ["hello", "--seconds", "-1"], ["hello", "--job", "rm"]):
        with started(*wrong) as process:
            output, _ = process.communicate(timeout=30)
            assert process.returncode == 2, wrong
            assert "Traceback" not in output


def test_a_body_that_is_no_job_gets_400() -> None:
    with stage("blocking", "sleep", {"seconds": 0.1}) as server:
        for body in ("", "{", "[]", '{"id": 7}', "[" * 100_000):
            assert requests.get(server.url, data=body, timeout=10).status_code == 400
        assert ask(server, 7) == "7 done\n"


@pytest.mark.parametrize(("before", "after", "limit"), NEIGHBOURS)
def test_neighbours_differ_in_a_few_lines(before: str, after: str, limit: int) -> None:
    assert 0 < changed(before, after) <= limit


def test_every_pair_of_neighbours_is_looked_at() -> None:
    assert [pair[:2] for pair in NEIGHBOURS] == list(pairwise(STAGES))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_a_page(name: str) -> None:
    assert len(source(name).splitlines()) <= 45
