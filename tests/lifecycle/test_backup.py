"""A copy is taken while jobs come and run, and brought back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import psutil

from tests.support import ROOT, server, wait_until


def service(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BACKLOG": f"sqlite:{folder}/data/backlog.db"} | settings
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_a_copy_taken_under_load_has_everything_accepted_before_it_and_comes_back(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    accepted: list[str] = []
    with server(tmp_path, SLOTS="2") as it:
        running = [it.submit("sleep", seconds=60, job_id=n) for n in range(4)]
        for location in running:
            it.wait_for(location, "running")
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                accepted.append(it.submit("sleep", seconds=0.01))

        loader = threading.Thread(target=load)
        loader.start()
        while len(accepted) < 100:
            stop.wait(0.01)
        before = [*running, *accepted]
        done = service(tmp_path, "backup", str(copy))
        stop.set()
        loader.join()
        assert done.returncode == 0, done.stderr
        assert apsw.Connection(str(copy)).pragma("integrity_check") == "ok"
        refused = service(tmp_path, "restore", str(copy))
        assert refused.returncode == 2
        assert "a server uses this backlog" in refused.stderr
        it.stop()
        restored = service(tmp_path, "restore", str(copy))
        assert restored.returncode == 0, restored.stderr
        assert "what was there before is in" in restored.stdout
        it.start()
        it.wait_until_ready()
        documents = {location: it.job(location) for location in before}
        assert len(documents) == len(before)
        for location in running:  # they ran when the copy was taken, by producers that are gone
            history = wait_until(lambda location=location: it.job(location)["history"], "it was found")
            assert history[0]["outcome"] == "lost"
            it.wait_for(location, "running")


def test_what_is_no_backlog_is_not_restored_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with server(tmp_path) as it:
        job = it.submit("noop", job_id="still here")
        it.wait_for(job, "succeeded")
        it.stop()
        rubbish = tmp_path / "rubbish.db"
        rubbish.write_bytes(b"no database at all" * 1000)
        for file, said in ((rubbish, "file is not a database"), (tmp_path / "nowhere", "there is no file")):
            done = service(tmp_path, "restore", str(file))
            assert done.returncode == 2
            assert said in done.stderr
        taken = service(tmp_path, "backup", str(rubbish))
        assert taken.returncode == 2
        assert "is there already" in taken.stderr
        it.start()
        it.wait_until_ready()
        assert it.job(job)["args"] == {"job_id": "still here"}


def test_a_copy_with_a_log_beside_it_is_restored_with_what_is_in_the_log(tmp_path: Path) -> None:
    with server(tmp_path) as it:
        job = it.submit("noop", job_id="only in the log")
        it.wait_for(job, "succeeded")
        it.kill_everything()
        store, killed = tmp_path / "data/backlog.db", tmp_path / "killed.db"
        for tail in ("", "-wal"):
            shutil.copy(f"{store}{tail}", f"{killed}{tail}")
        restored = service(tmp_path, "restore", str(killed))
        assert restored.returncode == 0, restored.stderr
        it.start()
        it.wait_until_ready()
        assert it.job(job)["args"] == {"job_id": "only in the log"}


def test_another_database_is_not_restored(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    db = apsw.Connection(str(other))
    db.execute("CREATE TABLE jobs (id)")
    db.close()
    with server(tmp_path) as it:
        it.wait_for(job := it.submit("noop"), "succeeded")
        it.stop()
        refused = service(tmp_path, "restore", str(other))
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
        it.start()
        it.wait_until_ready()
        assert it.job(job)["state"] == "succeeded"


def test_a_producer_whose_file_was_replaced_ends_and_accepts_nothing_into_the_old_one(tmp_path: Path) -> None:
    """One that was born while the copy was put in place is not seen by `restore`."""
    with server(tmp_path, PRODUCERS="1") as it:
        copy = tmp_path / "copy.db"
        assert service(tmp_path, "backup", str(copy)).returncode == 0
        assert copy.stat().st_mode & 0o077 == 0
        with it.connection() as connection:
            producer = psutil.Process(it.producers()[0])
            producer.suspend()  # it looks for itself, and would end before it is asked: the next one would answer
            copy.rename(tmp_path / "data/backlog.db")
            connection.request("POST", "/jobs", '{"job": "noop"}')
            producer.resume()
            assert connection.getresponse().status == 504
        wait_until(lambda: "the file was replaced" in it.log.read_text(), "it says why")


def test_a_copy_that_would_take_the_disks_reserve_is_refused(tmp_path: Path) -> None:
    with server(tmp_path) as it:
        it.stop()
        environment = {"DISK_RESERVE": str(1 << 60)}
        done = service(tmp_path, "backup", str(tmp_path / "copy.db"), **environment)
        assert done.returncode == 2
        assert "would leave less than DISK_RESERVE" in done.stderr
        assert not list(tmp_path.glob("*copy*"))
