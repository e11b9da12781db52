"""The disk can only be read from one moment on: never a false 202, the server ends, and one that starts on the mended
disk has all that was accepted.

A file system refuses to be remounted read-only under files that are open for writing, as a store's always are. What
really happens is that the kernel meets an error and does it itself; ext4 can be told to meet one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from service import exits
from tests.support import Server, answers, server, wait_until

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")
MB = 1 << 20


class Disk:
    """An ext4 in a file. Skips the test where it cannot be had."""

    def __init__(self, folder: Path) -> None:
        self.place, self._image = folder / "disk", folder / "image"
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(100 * MB)
        run("mkfs.ext4", "-q", "-F", self._image)
        if mounting := self.mount():
            pytest.skip(f"no ext4 can be mounted from a file: {mounting}")

    def mount(self) -> str:
        """What mount(8) says of it, or nothing."""
        options = ["-t", "ext4", "-o", "loop,errors=remount-ro"]
        return subprocess.run(
            ["mount", *options, self._image, self.place], capture_output=True, text=True
        ).stderr.strip()

    def fail(self) -> None:
        device = Path(run("findmnt", "-n", "-o", "SOURCE", self.place).strip()).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")

    def mend(self) -> None:
        run("umount", self.place)
        assert subprocess.run(["fsck.ext4", "-p", self._image], capture_output=True).returncode in (0, 1)  # 1: mended
        assert not self.mount()


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if not shutil.which("mkfs.ext4"):
        pytest.skip("mkfs.ext4 is not installed")
    it = Disk(tmp_path)
    yield it
    subprocess.run(["umount", "--lazy", it.place], check=True)


def post(it: Server, job_id: object, job: str = "noop") -> requests.Response | None:
    """None when nobody listens any more, or the connection breaks: then nothing is promised."""
    with suppress(requests.ConnectionError):
        return requests.post(f"{it.url}/jobs", json={"job": job, "args": {"job_id": job_id}}, timeout=20)
    return None


@NEEDS_ROOT
def test_a_disk_that_turns_read_only_is_never_a_202_and_loses_nothing(tmp_path: Path, disk: Disk) -> None:
    settings = {"BACKLOG": f"sqlite:{disk.place}/data/backlog.db", "DISK_RESERVE": str(MB), "DRAIN": "1"}
    with server(tmp_path, **settings) as it:
        wait_until(lambda: len(it.stats()["producers"]) == 2, "both producers serve")
        accepted = {f"before {n}": it.submit("noop", job_id=f"before {n}") for n in range(20)}
        accepted["running"] = it.submit("sleep", seconds=30.0, job_id="running")
        it.wait_for(accepted["running"], "running")
        disk.fail()
        with pytest.raises(OSError, match="Read-only"):
            (disk.place / "probe").touch()
        refused = [answer for n in range(20) if (answer := post(it, f"during {n}")) is not None]
        assert {answer.status_code for answer in refused} <= {503, 504}
        assert all(answer.headers["Content-Type"] == "application/problem+json" for answer in refused)
        wait_until(lambda: not answers(f"{it.url}/readyz"), "it is not ready")
        wait_until(lambda: it.process.poll() is not None, "it has ended", 30)
        assert it.process.returncode == exits.CONFIG
        assert "Read-only file system" in it.log.read_text()

        it.start()
        assert it.process.wait(20) == exits.CONFIG  # it does not serve on such a disk either

        disk.mend()
        it.start()
        it.wait_until_ready()
        for name, location in accepted.items():
            if name != "running":
                assert it.wait_for(location, "succeeded")["attempt"] == 1
        again = it.wait_for(accepted["running"], "running")
        assert [entry["outcome"] for entry in again["history"]] == ["lost"]
        it.wait_for(it.submit("noop", job_id="after"), "succeeded")
        assert it.stop() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "memory"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={40 * MB}", "tmpfs", place)
    yield place
    run("umount", "--lazy", place)


@NEEDS_ROOT
def test_a_server_does_not_start_on_a_read_only_disk_and_says_so(tmp_path: Path, small_disk: Path) -> None:
    settings = {"BACKLOG": f"sqlite:{small_disk}/data/backlog.db", "DISK_RESERVE": str(MB), "PRODUCERS": "1"}
    with server(tmp_path, **settings) as it:
        accepted = [it.submit("noop", job_id=n) for n in range(5)]
        held = it.submit("sleep", seconds=60.0)
        it.wait_for(held, "running")
        it.kill_everything()
        run("mount", "-o", "remount,ro", small_disk)
        it.start()
        assert it.process.wait(20) == exits.CONFIG
        assert f"{small_disk}/data/backlog.db, which cannot be opened" in it.log.read_text()
        run("mount", "-o", "remount,rw", small_disk)
        it.start()
        it.wait_until_ready()
        for location in accepted:
            it.wait_for(location, "succeeded")
        it.wait_for(held, "running")
