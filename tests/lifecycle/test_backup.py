"""A copy is taken while jobs come and run, and brought back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import apsw

from tests.support import ROOT, server


def service(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BACKLOG": f"sqlite:{folder}/data/backlog.db"}
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
            assert documents[location]["history"][0]["outcome"] == "lost"
            it.wait_for(location, "running")


def test_what_is_no_backlog_is_not_restored_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with server(tmp_path) as it:
        job = it.submit("noop", job_id="still here")
        it.wait_for(job, "succeeded")
        it.stop()
        rubbish = tmp_path / "rubbish.db"
        rubbish.write_bytes(b"no database at all" * 1000)
        for file, said in ((rubbish, "is no backlog, or damaged"), (tmp_path / "nowhere", "there is no file")):
            done = service(tmp_path, "restore", str(file))
            assert done.returncode == 2
            assert said in done.stderr
        taken = service(tmp_path, "backup", str(rubbish))
        assert taken.returncode == 2
        assert "is there already" in taken.stderr
        it.start()
        it.wait_until_ready()
        assert it.job(job)["args"] == {"job_id": "still here"}
