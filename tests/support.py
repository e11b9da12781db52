"""What several tests need: a free port, patience with a limit, a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import requests

from loadtest.contestant import free_port as free_port
from service import linux

ROOT = Path(__file__).parent.parent
LIVE = ("queued", "running")

# A jobs module that `service check` finds good, and that no server can boot with.
GOOD_ONLY_IN_THE_CHECK = """
import sys
import service.jobs
if sys.argv[1:] == ["serve"]:
    raise RuntimeError("bad when it serves")
"""

T = TypeVar("T")


def may_run_at_once() -> bool:
    with ThreadPoolExecutor(1) as thread:  # in this one, all tests would
        return thread.submit(linux.run_at_once).result()


real_time = pytest.mark.skipif(not may_run_at_once(), reason="needs the right to real time")


def wait_until(condition: Callable[[], T], what: str, timeout: float = 20.0) -> T:
    """The first true value of `condition`, or a failure that says what did not happen."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.02)
    return value


def kept(promise: Callable[[], bool]) -> bool:
    """At once, or in both of two more tries: a machine stands still now and then, what is slow is so again."""
    return promise() or (promise() and promise())


def answers(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(url, timeout=2).status_code == 200
    return False


def descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def all_gone(processes: list[psutil.Process]) -> bool:
    def lives(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):  # it may be reaped between the two questions
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    return not any(lives(process) for process in processes)


def serves(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # it has just ended, or is about to be reaped
        return "serve" in process.cmdline()
    return False


class Client:
    """The HTTP contract, as far as the tests use it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def submit(self, job: str, **args: Any) -> str:
        response = requests.post(f"{self.url}/jobs", json={"job": job, "args": args}, timeout=10)
        assert response.status_code == 202, response.text
        return response.headers["Location"]

    def job(self, location: str) -> dict[str, Any]:
        response = requests.get(self.url + location, timeout=10)
        assert response.status_code == 200, response.text
        document: dict[str, Any] = response.json()
        return document

    def wait_for(self, location: str, *states: str, timeout: float = 20.0) -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            job = self.job(location)
            return job if job["state"] in states else None

        return wait_until(there, f"{location} {' or '.join(states)}", timeout)

    def producer_of(self, location: str) -> int:
        """The process of the producer that runs a job."""
        id = location.rpartition("/")[2]

        def workers() -> list[str]:
            producers = self.stats()["producers"]
            return [it["worker"] for it in producers if id in [job["id"] for job in it["running"]]]

        return int(wait_until(workers, f"{location} runs")[0].split(".")[-2])

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = requests.get(f"{self.url}/stats", timeout=10).json()
        return stats


class Server(Client):
    """A `python -m service serve` of one's own, on a port of its own."""

    command: tuple[str, ...] = ("service",)

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        port = free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        self.log = folder / "server.log"
        defaults = {"LISTEN": f"127.0.0.1:{port}", "BACKLOG": f"sqlite:{folder}/data/backlog.db", "PRODUCERS": "2"}
        self._environment = os.environ | {"PYTHONPATH": str(ROOT)} | defaults | dict(settings)

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command, "serve"],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own: some tests signal all of it
            )

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.process.poll() is not None or answers(f"{self.url}/readyz"), "ready")
        assert self.process.poll() is None, self.log.read_text()

    def producers(self) -> list[int]:
        """The children that serve, in order of their birth."""
        return sorted(p.pid for p in psutil.Process(self.process.pid).children() if serves(p))

    @contextmanager
    def connection(self) -> Iterator[HTTPConnection]:
        """One that a producer has accepted, and keeps open."""
        with closing(HTTPConnection(self.url.removeprefix("http://"), timeout=20)) as connection:
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
            yield connection

    def stop(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.process.wait(60)

    def kill_everything(self) -> None:
        processes = [*descendants(self.process.pid)]
        with suppress(ProcessLookupError):
            self.process.kill()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(processes, 10)


def own_jobs(folder: Path, code: str) -> dict[str, str]:
    """The settings of a server that runs these."""
    (folder / "own_jobs.py").write_text(code)
    return {"JOBS": "own_jobs", "PYTHONPATH": f"{ROOT}:{folder}"}


@contextmanager
def server(folder: Path, **settings: str) -> Iterator[Server]:
    it = Server(folder, settings)
    it.start()
    try:
        it.wait_until_ready()
        yield it
    finally:
        it.kill_everything()
