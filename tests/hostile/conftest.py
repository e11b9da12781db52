"""One stack for all of these tests: nginx, two servers, and jobs that say what they are told to say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native import Stack


@pytest.fixture(scope="session")
def front() -> Iterator[Stack]:
    folder = Path(f"/tmp/stormdrain-front-{os.getpid()}")  # short, since sockets are in it
    folder.mkdir()
    it = Stack(folder)
    up = it.make("up", "JOBS=loud_jobs", f"JOBS_DIR={Path(__file__).parent}", "PRODUCERS=2")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield it
    finally:
        it.make("down")
        shutil.rmtree(folder)
