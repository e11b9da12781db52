"""A short audit, for real. Longer ones: make chaos MINUTES=10."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from loadtest import ledger
from tests.support import ROOT, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def chaos(out: Path, **settings: str) -> subprocess.Popen[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.Popen(
        ["make", "chaos", "STACK=native"],
        cwd=ROOT,
        env=outside | {"OUT": str(out)} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_nothing_is_lost_and_every_execution_is_explained(tmp_path: Path) -> None:
    run = chaos(tmp_path, MINUTES="0.35", SEED="7", JSON=str(tmp_path / "found.json"))
    output, _ = run.communicate(timeout=280)
    assert run.returncode == 0, output
    assert "seed 7, native" in output
    assert "The promises hold." in output
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["lost"], found["broken"], found["orphans"], found["store"]["integrity"]) == ([], [], [], "ok")
    assert found["answers"]["accepted"] > 100
    assert len(found["kills"]) > 5


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Short, since sockets are in it."""
    it = Path(f"/tmp/chaos-{os.getpid()}")
    it.mkdir()
    yield it
    shutil.rmtree(it)


def marked(folder: Path) -> list[str]:
    """The processes of a stack below this folder, nginx's aside."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"\0VAR={folder}/".encode() in b"\0" + (process / "environ").read_bytes():
                found.append(process.name)
    return found


def test_ctrl_c_ends_it_with_nothing_left(tmp_path: Path, temporary: Path) -> None:
    run = chaos(tmp_path, MINUTES="2", SEED="8", TMPDIR=str(temporary))
    path = tmp_path / "ledger.jsonl"
    wait_until(
        lambda: path.exists() and any(event["event"] == "kill" for event in ledger.read(path)), "somebody is hit", 100
    )
    hit = {event["pid"] for event in ledger.read(path) if event["event"] == "kill"}
    assert marked(temporary)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    output, _ = run.communicate(timeout=100)
    assert run.returncode != 0
    assert "Traceback" not in output, output
    assert marked(temporary) == []
    assert list(temporary.glob("stack-*")) == []
    assert [pid for pid in hit if Path(f"/proc/{pid}").exists()] == []
