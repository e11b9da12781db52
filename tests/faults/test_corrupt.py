"""The files of the backlog are damaged. Nothing is answered that is not true, and nothing is thrown away."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

import apsw
import pytest
import requests

from service import exits
from service.backlog.sqlite import SqliteBacklog
from service.job import Job, Settlement, State
from tests.faults.faulty import file_of, stored
from tests.support import Server, server, wait_until

JOBS = 200
ARGS = '{"job_id":"' + "x" * 900 + '"}'
PAGE = 4096  # bytes
IDS = [f"{n:08}-0000-7000-8000-000000000000" for n in range(JOBS)]


@dataclass
class Backlogs:
    """Two of the same content: one after a clean stop, one whose newest half is still in the log."""

    stopped: Path
    killed: Path
    jobs_page: int  # where the table of jobs begins


@pytest.fixture(scope="module")
def backlogs(tmp_path_factory: pytest.TempPathFactory) -> Backlogs:
    folder = tmp_path_factory.mktemp("whole")
    file = folder / "stopped/backlog.db"
    backlog = SqliteBacklog(str(file))
    for id in IDS[: JOBS // 2]:
        backlog.put([Job(id, "noop", ARGS.encode(), 60.0, 3)])
    backlog._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for claim in backlog.claim(10, "w"):
        backlog.settle([Settlement(claim.job.id, claim.token, State.SUCCEEDED, 1, 0, b"{}", result=b"1")])
    for id in IDS[JOBS // 2 :]:
        backlog.put([Job(id, "noop", ARGS.encode(), 60.0, 3)])
    (folder / "killed").mkdir()
    for path in file.parent.glob("backlog.db*"):
        shutil.copy(path, folder / "killed")  # as it lies there after kill -9
    page = backlog._db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'jobs'").get
    backlog.close()
    return Backlogs(file.parent, folder / "killed", page)


def copy(origin: Path, folder: Path) -> Path:
    shutil.copytree(origin, folder / "data", ignore=shutil.ignore_patterns("workers"))
    return file_of(folder)


def garble(file: Path, offset: int, size: int) -> bytes:
    """Write garbage; returns what the file is now."""
    with file.open("r+b") as it:
        it.seek(offset)
        it.write(Random(7).randbytes(size))
    return file.read_bytes()


def test_a_damaged_header_ends_the_server_with_a_sentence_and_the_file_is_kept(
    backlogs: Backlogs, tmp_path: Path
) -> None:
    file = copy(backlogs.stopped, tmp_path)
    damaged = garble(file, 0, 100)
    it = Server(tmp_path, {})
    it.start()
    try:
        assert it.process.wait(30) == 2
    finally:
        it.kill_everything()
    assert f"BACKLOG is sqlite:{file}, which cannot be opened" in it.log.read_text()
    assert "Traceback" not in it.log.read_text()
    assert file.read_bytes() == damaged


def test_a_damaged_page_is_never_a_202_and_the_file_is_kept(backlogs: Backlogs, tmp_path: Path) -> None:
    file = copy(backlogs.stopped, tmp_path)
    damaged = garble(file, (backlogs.jobs_page - 1) * PAGE, PAGE)
    it = Server(tmp_path, {"DRAIN": "0"})
    it.start()
    answered = []

    def refused() -> bool:
        try:
            response = requests.post(f"{it.url}/jobs", json={"job": "noop"}, timeout=10)
        except requests.RequestException:
            return it.process.poll() is not None
        answered.append(response.status_code)
        return len(answered) >= 3

    try:
        wait_until(refused, "three answers, or the end", 60)
    finally:
        it.kill_everything()
    assert set(answered) <= {503, 504}
    assert "malformed" in it.log.read_text()
    assert file.read_bytes() == damaged


@pytest.mark.parametrize("damage", ["cut in the middle", "cut to nothing", "garbage in the middle"])
def test_a_damaged_log_leaves_whole_commits_and_the_server_goes_on_with_them(
    backlogs: Backlogs, tmp_path: Path, damage: str
) -> None:
    """SQLite reads the log up to the first frame that is not whole: a log that was cut looks like one that ended
    there. What is behind is lost; only a disk that lies about its flushes can do that."""
    log = copy(backlogs.killed, tmp_path).with_name("backlog.db-wal")
    middle = log.stat().st_size // 2
    match damage:
        case "cut in the middle":
            os.truncate(log, middle + 100)
        case "cut to nothing":
            os.truncate(log, 0)
        case _:
            garble(log, middle, PAGE)
    with server(tmp_path, SLOTS="4") as it:
        after = it.submit("noop", job_id="after")
        it.wait_for(after, "succeeded", timeout=60)
        states = wait_until(lambda: s if not (s := it.stats()["states"])["queued"] else None, "all have run", 60)
        assert states["failed"] == 0
        assert it.stop() == 0
    rows = stored(file_of(tmp_path))
    assert JOBS // 2 < len(rows) <= JOBS  # what had been moved into the file, and what the log still tells
    assert [args for args, _, _ in rows] == [ARGS] * (len(rows) - 1) + ['{"job_id":"after"}']
    db = apsw.Connection(str(file_of(tmp_path)))
    assert [id for (id,) in db.execute("SELECT id FROM jobs ORDER BY seq")][:-1] == IDS[: len(rows) - 1]  # no gap
    db.close()


def test_a_damaged_page_that_is_met_while_running_ends_the_server_and_keeps_the_file(
    backlogs: Backlogs, tmp_path: Path
) -> None:
    file = copy(backlogs.stopped, tmp_path)
    damaged = garble(file, (backlogs.jobs_page - 1) * PAGE, PAGE)
    it = Server(tmp_path, {"DRAIN": "0", "PRODUCERS": "1"})  # another could see the mark before it meets the page
    it.start()
    try:
        assert it.process.wait(30) == exits.CORRUPT
    finally:
        it.kill_everything()
    assert "the backlog's file is damaged" in it.log.read_text()
    it.start()  # as a supervisor would
    assert it.process.wait(30) == exits.CONFIG
    assert "was found damaged: `make restore` a copy" in it.log.read_text()
    assert file.read_bytes() == damaged
