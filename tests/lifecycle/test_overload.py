"""Refused before anything is stored, said when to come back, and everything accepted still ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import Client, own_jobs, server, wait_until

MB = 1 << 20

OWN_JOBS = """
import time
from pathlib import Path
from service.jobs import noop
from service.registry import job

@job
def wait_for(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.02)
"""


def post(client: Client, job: str = "noop", **args: Any) -> requests.Response:
    return requests.post(f"{client.url}/jobs", json={"job": job, "args": args}, timeout=10)


def test_a_full_backlog_refuses_with_the_time_until_there_is_room(tmp_path: Path) -> None:
    with server(tmp_path, BACKLOG_MAX="30", SLOTS="1", PRODUCERS="2") as it:
        answers = [post(it, "sleep", seconds=0.2) for _ in range(200)]
        accepted = [answer.headers["Location"] for answer in answers if answer.status_code == 202]
        refused = [answer for answer in answers if answer.status_code != 202]
        assert len(accepted) >= 30
        assert {answer.status_code for answer in refused} == {503}
        assert {answer.json()["type"] for answer in refused} == {"/problems/backlog-full"}
        assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)
        for location in accepted:
            it.wait_for(location, "succeeded")
        assert post(it).status_code == 202
        assert it.stats()["states"]["succeeded"] >= len(accepted)  # what was refused was not stored


def test_nothing_that_was_refused_is_stored(tmp_path: Path) -> None:
    with server(tmp_path, BACKLOG_MAX="5", SLOTS="1", PRODUCERS="1") as it:
        codes = [post(it, "sleep", seconds=30).status_code for _ in range(20)]
        assert sum(it.stats()["states"].values()) == codes.count(202)


def test_a_job_that_is_kept_no_longer_is_gone_and_not_unknown(tmp_path: Path) -> None:
    with server(tmp_path, KEEP_MAX="1", PRODUCERS="1") as it:
        first = it.submit("noop")
        it.wait_for(first, "succeeded")
        second = it.submit("noop")
        it.wait_for(second, "succeeded")
        wait_until(lambda: requests.get(it.url + first, timeout=5).status_code != 200, "gone")
        gone = requests.get(it.url + first, timeout=5)
        assert (gone.status_code, gone.json()["type"]) == (410, "/problems/removed")
        assert it.job(second)["state"] == "succeeded"
        never = requests.get(f"{it.url}/jobs/ffffffff-ffff-7fff-bfff-ffffffffffff", timeout=5)
        assert never.status_code == 404


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={40 * MB}", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def free(folder: Path) -> int:
    it = os.statvfs(folder)
    return it.f_bavail * it.f_frsize


def test_on_a_full_disk_new_jobs_are_refused_and_running_ones_are_recorded(tmp_path: Path, small_disk: Path) -> None:
    settings = {"BACKLOG": f"sqlite:{small_disk}/data/backlog.db", "DISK_RESERVE": str(8 * MB)}
    full = tmp_path / "full"  # on another disk
    with server(tmp_path, **own_jobs(tmp_path, OWN_JOBS), **settings) as it:
        running = [it.submit("wait_for", file=str(full)) for _ in range(10)]
        for location in running:
            it.wait_for(location, "running")
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free(small_disk) - 4 * MB)
        refused = post(it)
        assert (refused.status_code, refused.json()["type"]) == (507, "/problems/disk-full")
        assert int(refused.headers["Retry-After"]) >= 1
        with filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, filler.stat().st_size + free(small_disk))  # not a byte is left
        full.touch()
        for location in running:
            it.wait_for(location, "succeeded")
        assert post(it).status_code == 507
        filler.unlink()
        assert wait_until(lambda: post(it).status_code == 202, "it accepts again")
        ballast = small_disk / "data/backlog.db.ballast"
        wait_until(ballast.exists, "the ballast is back")
