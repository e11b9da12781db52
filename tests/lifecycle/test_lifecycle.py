"""Starts, stops, crashes and restarts: real processes, real signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from tests.support import ROOT, Server, all_gone, answers, descendants, kept, own_jobs, real_time, server, wait_until

# What waits does so until there is a file `go`.
OWN_JOBS = """
import os, subprocess, threading, time
from pathlib import Path
from service.jobs import noop
from service.registry import job

here = Path(__file__).parent

def wait_for_go():
    while not (here / "go").exists():
        time.sleep(0.02)

@job
def wait(told: str = "pid") -> None:
    (here / told).write_text(str(os.getpid()))
    wait_for_go()

@job
def leave_a_bomb() -> str:
    def burn():
        wait_for_go()
        os._exit(9)

    threading.Thread(target=burn).start()
    return "fine"

@job
def start_a_child() -> None:
    child = subprocess.Popen(["sleep", "61"])
    (here / "pid").write_text(str(child.pid))
    child.wait()

@job(timeout=5, attempts=1)
def start_a_daemon() -> None:
    daemon = subprocess.Popen(["sleep", "61"], start_new_session=True)
    (here / "pid").write_text(str(daemon.pid))
    time.sleep(30)
"""


def process_id(file: Path) -> int:
    """That a job of ours has told."""
    return int(wait_until(lambda: file.exists() and file.read_text(), f"{file.name} is told"))


def lines(server: Server, text: str) -> int:
    return server.log.read_text().count(text)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_lets_running_jobs_finish_and_leaves_nothing(tmp_path: Path, signum: int) -> None:
    with server(tmp_path, **own_jobs(tmp_path, OWN_JOBS)) as it:
        running = it.submit("wait")
        it.wait_for(running, "running")
        tree = descendants(it.process.pid)
        it.process.send_signal(signum)
        time.sleep(1)  # the job needs it
        (tmp_path / "go").touch()
        assert it.process.wait(60) == 0
        wait_until(lambda: all_gone(tree), "every process has ended")
        it.start()
        it.wait_until_ready()
        job = it.job(running)
        assert (job["state"], job["attempt"], len(job["history"])) == ("succeeded", 1, 1)


def test_a_signal_to_the_whole_group_does_not_break_a_job(tmp_path: Path) -> None:
    """Ctrl-C in a terminal, and supervisors that signal the group."""
    with server(tmp_path, **own_jobs(tmp_path, OWN_JOBS)) as it:
        running = it.submit("wait")
        it.wait_for(running, "running")
        os.killpg(it.process.pid, signal.SIGINT)
        time.sleep(1)  # the job needs it
        (tmp_path / "go").touch()
        assert it.process.wait(30) == 0
        it.start()
        it.wait_until_ready()
        assert [entry["outcome"] for entry in it.job(running)["history"]] == ["succeeded"]


def test_a_drain_may_take_longer_than_the_lease(tmp_path: Path) -> None:
    with server(tmp_path, DRAIN="40", LEASE="7", SLOTS="2") as it:
        jobs = [it.submit("sleep", seconds=10.0) for _ in range(4)]
        for job in jobs:
            it.wait_for(job, "running")
        os.kill(it.producers()[0], signal.SIGTERM)
        histories = [it.wait_for(job, "succeeded", timeout=40)["history"] for job in jobs]
    assert [[entry["outcome"] for entry in history] for history in histories] == [["succeeded"]] * 4


def test_what_does_not_fit_in_the_drain_time_goes_back_and_loses_no_attempt(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", DRAIN="0.2") as it:  # what one gives back, another might take, and give back
        long = it.submit("sleep", seconds=60.0)
        it.wait_for(long, "running")
        assert it.stop() == 0
        it.start()
        it.wait_until_ready()
        job = it.wait_for(long, "running")
        assert job["attempt"] == 1
        assert [entry["outcome"] for entry in job["history"]] == ["returned"]


def test_a_fork_server_that_took_the_place_of_a_killed_one_is_as_deaf_to_stop_signals(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", **own_jobs(tmp_path, OWN_JOBS)) as it:

        def fork_server() -> psutil.Process | None:
            for child in psutil.Process(it.producers()[0]).children():
                with suppress(psutil.NoSuchProcess):  # it has ended, and may be reaped meanwhile
                    if "multiprocessing.forkserver" in " ".join(child.cmdline()):
                        return child
            return None

        it.wait_for(it.submit("noop"), "succeeded")
        first = fork_server()
        assert first
        first.kill()
        wait_until(lambda: fork_server() is None, "it is gone")
        job = it.submit("wait")
        it.wait_for(job, "running")
        second = wait_until(fork_server, "there is a new one")
        wait_until(second.children, "it has a slot")
        before = it.wait_for(job, "running")["history"]  # a slot of the first may have died with the job in hand
        second.terminate()
        (tmp_path / "go").touch()
        after = it.wait_for(job, "succeeded")["history"]
        assert [entry["outcome"] for entry in after[len(before) :]] == ["succeeded"]
        assert not all_gone([second])


def test_a_killed_producer_loses_nothing_and_what_it_held_runs_again_within_two_seconds(tmp_path: Path) -> None:
    with server(tmp_path, SLOTS="8") as it:  # the one that lives has slots for all
        jobs = [it.submit("sleep", seconds=200.0) for _ in range(8)]
        for job in jobs:
            it.wait_for(job, "running")
        assert kept(lambda: kill_a_busy_producer(it, jobs) < 2)
        wait_until(lambda: len(it.producers()) == 2, "another takes its place")


def kill_a_busy_producer(it: Server, jobs: list[str]) -> float:
    """Seconds until all that it held runs again, and nothing is left of it."""
    both = wait_until(lambda: found if len(found := it.stats()["producers"]) == 2 else None, "both serve")
    victim = next(producer for producer in both if producer["running"])
    process, held = int(victim["worker"].split(".")[-2]), {busy["id"] for busy in victim["running"]}
    slots = descendants(process)
    killed = time.monotonic()
    os.kill(process, signal.SIGKILL)

    def all_run_again() -> bool:
        documents = [it.job(job) for job in jobs]
        ends = [(d["id"], entry["worker"], entry["outcome"]) for d in documents for entry in d["history"]]
        lost = {id for id, worker, outcome in ends if (worker, outcome) == (victim["worker"], "lost")}
        return lost == held and all(d["state"] == "running" and d["attempt"] == 1 for d in documents)

    wait_until(all_run_again, "every job runs again")
    wait_until(lambda: all_gone(slots), "its slots have ended")
    return time.monotonic() - killed


def test_everything_accepted_is_there_after_the_whole_tree_was_killed(tmp_path: Path) -> None:
    with server(tmp_path, SLOTS="2") as it:
        jobs = [it.submit("sleep", seconds=0.1, job_id=n) for n in range(40)]
        it.kill_everything()
        it.start()
        it.wait_until_ready()
        assert [it.wait_for(job, "succeeded")["result"] for job in jobs] == list(range(40))


def test_a_killed_master_leaves_nobody_serving(tmp_path: Path) -> None:
    with server(tmp_path, DRAIN="1") as it:
        tree = descendants(it.process.pid)
        it.process.kill()
        it.process.wait()
        wait_until(lambda: all_gone(tree), "every process has ended")
        it.start()  # the port is free again
        it.wait_until_ready()


def test_a_killed_slot_fails_one_attempt_and_the_job_runs_again(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", **own_jobs(tmp_path, OWN_JOBS)) as it:
        victim, neighbour = it.submit("wait", told="victim"), it.submit("wait", told="neighbour")
        process_id(tmp_path / "neighbour")  # it runs
        os.kill(process_id(tmp_path / "victim"), signal.SIGKILL)
        wait_until(lambda: it.job(victim)["history"], "it has failed")
        (tmp_path / "go").touch()
        histories = [it.wait_for(job, "succeeded")["history"] for job in (victim, neighbour)]
        outcomes = [[entry["outcome"] for entry in history] for history in histories]
        assert outcomes == [["crashed", "succeeded"], ["succeeded"]]


def busy_slots(producer: int) -> list[psutil.Process]:
    """Children of the fork server."""
    return [slot for helper in psutil.Process(producer).children() for slot in helper.children()]


def at_once(process: psutil.Process) -> int:
    """How many of its threads are in real time."""
    found = 0
    for thread in process.threads():
        with suppress(ProcessLookupError):
            found += os.sched_getscheduler(thread.id) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
    return found


@real_time
def test_of_a_producer_one_thread_runs_at_once_and_no_slot_does(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", **own_jobs(tmp_path, OWN_JOBS)) as it:
        it.submit("wait")
        process_id(tmp_path / "pid")  # it runs
        (producer,) = it.producers()
        wait_until(lambda: at_once(psutil.Process(producer)) == 1, "one runs at once")  # not while it sweeps
        assert not any(map(at_once, descendants(producer)))
        (tmp_path / "go").touch()


def test_what_a_killed_producers_job_had_started_is_ended(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", **own_jobs(tmp_path, OWN_JOBS)) as it:
        it.submit("start_a_child")
        assert kept(lambda: kill_with_child(it, tmp_path / "pid") < 2)


def kill_with_child(it: Server, told: Path) -> float:
    """Seconds until what a job of the only producer has started is gone."""
    child = process_id(told)
    told.unlink()  # the next producer runs the job again
    os.kill(it.producers()[0], signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: not psutil.pid_exists(child), "the child has ended")
    return time.monotonic() - killed


def test_a_producer_that_cannot_boot_ends_the_tree_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "broken_jobs.py").write_text("import os\nos._exit(1)\n")
    it = Server(tmp_path, {"JOBS": "broken_jobs", "PYTHONPATH": f"{ROOT}:{tmp_path}"})
    it.start()
    assert it.process.wait(30) == 3
    assert "a producer cannot boot: giving up" in it.log.read_text()


def test_a_jobs_module_that_raises_ends_the_tree_at_once_and_shows_where(tmp_path: Path) -> None:
    (tmp_path / "broken_jobs.py").write_text("raise RuntimeError('no such model')\n")
    it = Server(tmp_path, {"JOBS": "broken_jobs", "PYTHONPATH": f"{ROOT}:{tmp_path}"})
    it.start()
    assert it.process.wait(30) == 2
    assert 'broken_jobs.py", line 1' in it.log.read_text()


def test_a_slot_that_died_while_idle_is_not_the_next_jobs_fault(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", **own_jobs(tmp_path, OWN_JOBS)) as it:
        it.wait_for(it.submit("leave_a_bomb"), "succeeded")
        (tmp_path / "go").touch()
        wait_until(lambda: not busy_slots(it.producers()[0]), "the slot has died")
        job = it.wait_for(it.submit("noop"), "succeeded")
        assert [entry["outcome"] for entry in job["history"]] == ["succeeded"]


def test_what_a_job_started_in_a_session_of_its_own_ends_with_the_time_limit(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", **own_jobs(tmp_path, OWN_JOBS)) as it:
        location = it.submit("start_a_daemon")
        told = process_id(tmp_path / "pid")
        assert it.wait_for(location, "failed")["error"]["type"] == "timed_out"
        wait_until(lambda: not psutil.pid_exists(told), "the daemon has ended", 1)


def test_while_draining_new_connections_are_refused_at_once(tmp_path: Path) -> None:
    """So that nginx takes the request to another server; queued here, it would be reset in the end."""
    with server(tmp_path, DRAIN="30", **own_jobs(tmp_path, OWN_JOBS)) as it:
        it.wait_for(it.submit("wait"), "running")
        it.process.terminate()

        def refused() -> bool:
            try:
                requests.get(f"{it.url}/healthz", timeout=10)
            except requests.ConnectionError:
                return True
            return False

        wait_until(refused, "connections are refused", 8)
        assert it.process.poll() is None
        (tmp_path / "go").touch()
        assert it.process.wait(40) == 0


def test_a_store_that_fails_ends_the_producer_and_nothing_false_is_said(tmp_path: Path) -> None:
    """A file size limit makes every further write an error, as a broken disk would."""
    with server(tmp_path, PRODUCERS="1", DRAIN="1") as it:
        known = it.submit("noop", job_id="before")
        producer = it.producers()[0]
        size = sum(f.stat().st_size for f in (tmp_path / "data").glob("backlog.db-wal"))
        psutil.Process(producer).rlimit(psutil.RLIMIT_FSIZE, (size, size))
        accepted = [known]
        with suppress(requests.RequestException):
            for n in range(200):
                response = requests.post(f"{it.url}/jobs", json={"job": "noop", "args": {"job_id": n}}, timeout=10)
                assert response.status_code in (202, 503, 504, 507)
                if response.status_code == 202:
                    accepted.append(response.headers["Location"])
        wait_until(lambda: not psutil.pid_exists(producer), "the producer has ended")
        wait_until(lambda: answers(f"{it.url}/readyz"), "another one is ready", 20)
        for location in accepted:
            it.wait_for(location, "succeeded")


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("SLOTS", "many", "SLOTS is 'many': use a whole number of slots"),
        ("SLOTS", "0", "SLOTS is 0: use 1 slots or more"),
        ("LISTEN", "8000", "LISTEN is '8000'"),
        ("BACKLOG", "redis:x", "BACKLOG is 'redis:x'"),
        ("BACKLOG", "memory:", "set PRODUCERS=1"),
        ("BACKLOG", "sqlite:/proc/nowhere/x.db", "cannot be opened"),
        ("JOBS", "no.such.module", "JOBS is 'no.such.module', which cannot be imported"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL is 'loud'"),
    ],
)
def test_a_wrong_setting_ends_at_once_with_a_sentence(tmp_path: Path, setting: str, value: str, sentence: str) -> None:
    it = Server(tmp_path, {setting: value})
    it.start()
    assert it.process.wait(20) == 2
    assert sentence in it.log.read_text()
    assert "Traceback" not in it.log.read_text()


def test_the_memory_backlog_serves_too(tmp_path: Path) -> None:
    with server(tmp_path, BACKLOG="memory:", PRODUCERS="1") as it:
        assert it.wait_for(it.submit("noop", job_id=3), "succeeded")["result"] == 3


def test_idle_slots_are_ended(tmp_path: Path) -> None:
    with server(tmp_path, SLOT_IDLE="0.5", PRODUCERS="1") as it:
        it.wait_for(it.submit("noop"), "succeeded")
        wait_until(lambda: not busy_slots(it.producers()[0]), "the slot has ended")
        it.wait_for(it.submit("noop"), "succeeded")


def test_every_setting_is_printed_with_its_default() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "service", "settings"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "| `SLOTS` | `20` | slots |" in printed


def test_a_producer_that_hangs_is_replaced(tmp_path: Path) -> None:
    """It could have the store's lock, and then nobody else could write."""
    with server(tmp_path, LEASE="1") as it:
        wait_until(lambda: lines(it, "serving as") == 2, "both serve")  # one that boots is given its time
        victim = it.producers()[0]
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: victim not in it.producers(), "it is killed")
        wait_until(lambda: len(it.producers()) == 2, "another takes its place")
        assert "hangs: killing it" in it.log.read_text()
        it.wait_for(it.submit("noop"), "succeeded")
        assert it.stop() == 0


def test_a_whole_server_that_was_stopped_for_a_while_goes_on(tmp_path: Path) -> None:
    with server(tmp_path, LEASE="3") as it:
        before = it.producers()
        tree = [it.process.pid, *before]
        for pid in tree:
            os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        wait_until(lambda: time.monotonic() > stopped + 8, "more than twice its lease has passed")
        for pid in tree:
            os.kill(pid, signal.SIGCONT)
        it.wait_for(it.submit("noop"), "succeeded")
        assert it.producers() == before


def semaphores(pids: list[int]) -> set[str]:
    """Names below /dev/shm that these processes use."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    return set(re.findall(r"/dev/shm/(sem\.\S+)", maps))


def test_a_killed_producer_leaves_nothing_in_shared_memory(tmp_path: Path) -> None:
    with server(tmp_path, SLOTS="4") as it:
        for location in [it.submit("sleep", seconds=60) for _ in range(8)]:
            it.wait_for(location, "running")
        victim = it.producers()[0]
        wait_until(lambda: len(busy_slots(victim)) == 4, "its slots are there")
        names = semaphores([victim])
        assert names
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not names & set(os.listdir("/dev/shm")), "its semaphores are gone")


def test_nobody_is_sent_to_a_server_whose_producers_cannot_serve_yet(tmp_path: Path) -> None:
    (tmp_path / "slow_jobs.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from service.jobs import noop\n"
        "while not Path(__file__).with_name('go').exists():\n"
        "    time.sleep(0.02)\n"
    )
    it = Server(tmp_path, {"JOBS": "slow_jobs", "PYTHONPATH": f"{ROOT}:{tmp_path}"})
    it.start()
    try:
        wait_until(lambda: "listening" in it.log.read_text() or descendants(it.process.pid), "it starts")
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{it.url}/healthz", timeout=5)
        (tmp_path / "go").touch()
        it.wait_until_ready()
    finally:
        it.kill_everything()
