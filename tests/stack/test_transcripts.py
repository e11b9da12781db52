"""Every command on a page of docs/ answers as the page says, through the whole stack."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.transcript import plain, replay, steps
from tests.native import Stack
from tests.support import ROOT

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One producer, so that what one answer says is known to the next."""
    folder = Path(f"/tmp/stormdrain-transcript-{os.getpid()}")
    folder.mkdir()
    it = Stack(folder)
    up = it.make("up", "PRODUCERS=1")
    assert up.returncode == 0, up.stdout + up.stderr
    yield it
    assert it.make("down").returncode == 0
    shutil.rmtree(folder)


@pytest.mark.parametrize(("name", "least"), [("docs/http.md", 20), ("README.md", 2)])
def test_every_answer_on_the_page_is_what_comes(stack: Stack, name: str, least: int) -> None:
    page = (ROOT / name).read_text()
    other: list[str] = []
    replay(
        page,
        f"localhost:{stack.port}",
        lambda command, before, now: other.append(f"$ {command}--- the page\n{plain(before)}--- now\n{plain(now)}"),
    )
    assert len(list(steps(page))) >= least
    assert not other, "\n".join(other)
