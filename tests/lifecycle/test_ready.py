"""GET /readyz: what makes a producer not ready, and what does not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from service.motion import STALLED
from tests.support import Server, answers, own_jobs, server, wait_until

LATER = 3 * STALLED  # seconds; what takes STALLED is looked for until then


def ready(it: Server) -> tuple[int, str]:
    response = requests.get(f"{it.url}/readyz", timeout=10)
    body: dict[str, Any] = response.json()
    return response.status_code, body.get("type", "").removeprefix("/problems/")


# In the producer it is good; in a slot, which imports it anew, it is not. `ok` is there once it is mended.
HANGS = """
import os, sys, time
from pathlib import Path
from service.jobs import noop
ok = Path(__file__).with_name("ok")
while sys.argv[1:] != ["serve"] and not ok.exists():
    time.sleep(0.1)
"""
RAISES = """
import sys
from pathlib import Path
from service.jobs import noop
if sys.argv[1:] != ["serve"] and not Path(__file__).with_name("ok").exists():
    raise RuntimeError("no such model")
"""
WAITS = """
import time
from pathlib import Path
from service.registry import job
@job
def wait():
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.02)
"""


@pytest.mark.parametrize("code", [HANGS, RAISES], ids=["hangs", "raises"])
def test_a_producer_whose_slots_cannot_start_says_that_jobs_do_not_move(tmp_path: Path, code: str) -> None:
    with server(tmp_path, PRODUCERS="1", SLOTS="2", **own_jobs(tmp_path, code)) as it:
        jobs = [it.submit("noop") for _ in range(3)]
        assert ready(it) == (200, "")
        wait_until(lambda: ready(it) == (503, "stalled"), "it is not ready", LATER)
        (tmp_path / "ok").touch()
        for job in jobs:
            it.wait_for(job, "succeeded", timeout=60)
        assert ready(it) == (200, "")


def test_a_backlog_behind_long_jobs_is_no_standstill_and_nor_is_a_job_that_nobody_knows(tmp_path: Path) -> None:
    known = own_jobs(tmp_path, "from service.jobs import *\nfrom service.registry import job\n@job\ndef old(): ...\n")
    with server(tmp_path, PRODUCERS="1", SLOTS="1", DRAIN="0", **known) as it:
        blocked = it.submit("sleep", seconds=60)
        it.wait_for(blocked, "running")
        jobs = [it.submit("old") for _ in range(20)]
        for _ in wait_through(STALLED + 3):
            assert ready(it) == (200, "")
        assert it.stop() == 0
    with server(tmp_path, PRODUCERS="1", SLOTS="2") as it:  # where `old` is not registered
        wait_until(lambda: it.job(jobs[0])["history"], "it came back")
        for _ in wait_through(STALLED + 3):
            assert ready(it) == (200, "")


def wait_through(seconds: float) -> Iterator[None]:
    """Yields now and then until the time is over: what must not happen has no moment to wait for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.25)


def test_a_full_backlog_has_its_own_reason_and_is_ready_again_with_room(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", SLOTS="1", BACKLOG_MAX="2") as it:
        long = it.submit("sleep", seconds=60)
        it.wait_for(long, "running")
        for _ in range(2):
            it.submit("noop")
        assert ready(it) == (503, "backlog-full")
        assert requests.delete(it.url + long, timeout=10).status_code == 202
        wait_until(lambda: ready(it) == (200, ""), "there is room", 20)


def test_a_disk_whose_reserve_is_reached_is_the_reason(tmp_path: Path) -> None:
    it = Server(tmp_path, {"PRODUCERS": "1", "DISK_RESERVE": str(1 << 60)})
    it.start()
    try:
        wait_until(lambda: answers(f"{it.url}/healthz"), "it serves")
        assert ready(it) == (503, "disk-full")
    finally:
        it.kill_everything()


def test_a_producer_that_drains_says_so_to_a_connection_that_is_open(tmp_path: Path) -> None:
    waits = own_jobs(tmp_path, WAITS)
    with server(tmp_path, PRODUCERS="1", DRAIN="30", **waits) as it, requests.Session() as session:
        it.wait_for(it.submit("wait"), "running")
        assert session.get(f"{it.url}/readyz", timeout=10).status_code == 200
        it.process.terminate()
        wait_until(lambda: "draining" in it.log.read_text(), "it drains")
        answer = session.get(f"{it.url}/readyz", timeout=10)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/draining")
        (tmp_path / "go").touch()
        assert it.process.wait(40) == 0
