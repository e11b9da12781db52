"""A million jobs in one request: a receipt for each, and the memory as it was."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.streaming import ids, stream
from tests.support import server

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

LINES, CHUNK = 1_000_000, 2_000
FLAT = 24 << 20  # bytes; the page cache of the store, and buffers
LINE = b'{"job":"noop","delay":86400}\n'


def test_the_memory_of_a_producer_is_flat_while_a_million_lines_come(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", BACKLOG_MAX="2000000", DISK_RESERVE="0") as it, stream(it) as lines:
        (pid,) = it.producers()
        producer, began = psutil.Process(pid), time.monotonic()
        curve = []

        def look(sent: int) -> None:
            curve.append((sent, time.monotonic() - began, producer.memory_info().rss))

        for sent in range(0, LINES, CHUNK):
            if sent % (LINES // 20) == 0:
                look(sent)
            lines.send(LINE * CHUNK)
        lines.end()
        answer = lines.answer()
        look(LINES)
        accepted = ids(answer.receipts())
        look(LINES)
        print("\n    lines  seconds  MiB of the producer")
        for sent, seconds, rss in curve:
            print(f"{sent:>9,} {seconds:>8.1f} {rss / (1 << 20):>8.1f}")
        assert len(accepted) == len(set(accepted)) == LINES
        assert it.stats()["states"]["queued"] == LINES
        settled = [rss for sent, _, rss in curve if sent >= LINES // 10]
        assert max(settled) - min(settled) < FLAT
