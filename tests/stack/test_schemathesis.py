"""What the description promises is what comes, through nginx, for thousands of requests made from it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native import Stack
from tests.support import ROOT

pytestmark = pytest.mark.stack

# Nothing waits, nothing is heavy; and no more than a flood that two cores can take.
JOBS = """
from service.registry import job


@job(attempts=1)
def text(value: str = "", many: list[int] = []) -> str: ...


@job(timeout=1, attempts=2, backoff=0)
def number(value: float, times: int = 1) -> float:
    return value * times
"""
EXAMPLES = {"ordinary": "80", "long": "200"}


@pytest.fixture
def stack() -> Iterator[Stack]:
    folder = Path(f"/tmp/stormdrain-schemathesis-{os.getpid()}")
    folder.mkdir()
    (folder / "plain_jobs.py").write_text(JOBS)
    it = Stack(folder)
    settings = ("JOBS=plain_jobs", f"JOBS_DIR={folder}", "SLOTS=4", "BACKLOG_MAX=100000")
    up = it.make("up", *settings)
    assert up.returncode == 0, up.stdout + up.stderr
    yield it
    assert it.make("down").returncode == 0
    shutil.rmtree(folder)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", ["ordinary", pytest.param("long", marks=pytest.mark.long)])
def test_every_answer_is_one_that_is_described(stack: Stack, size: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{stack.url}/openapi.json",
            "--checks=not_a_server_error,status_code_conformance,content_type_conformance,"
            "response_headers_conformance,response_schema_conformance,ensure_resource_availability",
            "--phases=examples,coverage,fuzzing,stateful",
            f"--max-examples={EXAMPLES[size]}",
            "--exclude-path-regex=/events$",  # a stream, which ends with its job: tests/lifecycle/test_follow.py
            "--request-timeout=70",
            "--workers=1",  # more end with `AST constructor recursion depth mismatch` on CPython 3.11
            "--seed=1",
            "--suppress-health-check=all",
            "--no-color",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.stack.lines_for_schemathesis"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
    (cases,) = re.findall(r"(\d[\d,]*) generated", done.stdout)[-1:]
    assert int(cases.replace(",", "")) > 1000
