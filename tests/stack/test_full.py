"""A stack whose backlog is full can be started, and be replaced; and it says that it is full."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.native import Stack
from tests.support import all_gone

pytestmark = pytest.mark.stack

SETTINGS = ("BACKLOG_MAX=4", "PRODUCERS=1", "SLOTS=1", "DRAIN=1")


@pytest.fixture
def stack() -> Iterator[Stack]:
    it = Stack(Path(f"/tmp/stormdrain-full-{os.getpid()}"))
    it.folder.mkdir()
    yield it
    it.make("down")
    shutil.rmtree(it.folder)


def fill(stack: Stack) -> None:
    codes = [
        requests.post(f"{stack.url}/jobs", json={"job": "sleep", "args": {"seconds": 600}}, timeout=10).status_code
        for _ in range(20)
    ]
    assert codes[-1] == 503


def problem(stack: Stack) -> str:
    answer = requests.get(f"{stack.url}/readyz", timeout=10)
    assert answer.status_code == 503
    return str(answer.json()["type"])


@pytest.mark.timeout(300)
def test_a_full_backlog_stops_neither_a_deployment_nor_a_start(stack: Stack) -> None:
    up = stack.make("up", *SETTINGS)
    assert up.returncode == 0, up.stdout + up.stderr
    fill(stack)
    assert problem(stack) == "/problems/backlog-full"
    old = stack.servers()
    deployed = stack.make("deploy", *SETTINGS, timeout=200)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert all_gone(old)
    assert problem(stack) == "/problems/backlog-full"
    assert stack.make("down").returncode == 0
    again = stack.make("up", *SETTINGS)
    assert again.returncode == 0, again.stdout + again.stderr
    fill(stack)
    assert problem(stack) == "/problems/backlog-full"
