"""Three times what can be run, for a minute: refused in time, nothing lost, memory flat."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import requests

from tests.support import Server, server, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

MINUTE = 60.0  # seconds
CLIENTS = 12
JOB = 0.02  # seconds; with 2 x 2 slots, at most 200 jobs a second
GROWTH = 20 << 20  # bytes a producer may grow by


class Flood:
    def __init__(self, it: Server) -> None:
        self.it, self.codes, self.without_time, self.until = it, Counter[int](), 0, time.monotonic() + MINUTE
        self.lock = threading.Lock()

    def client(self) -> None:
        with requests.Session() as session:
            while time.monotonic() < self.until:
                body = {"job": "sleep", "args": {"seconds": JOB}}
                answer = session.post(f"{self.it.url}/jobs", json=body, timeout=30)
                with self.lock:
                    self.codes[answer.status_code] += 1
                    self.without_time += answer.status_code == 503 and "Retry-After" not in answer.headers


def memory(it: Server) -> list[int]:
    return [psutil.Process(pid).memory_info().rss for pid in it.producers()]


def test_three_times_the_capacity_for_a_minute(tmp_path: Path) -> None:
    with server(tmp_path, BACKLOG_MAX="500", SLOTS="2", PRODUCERS="2", KEEP_MAX="2000") as it:
        flood = Flood(it)
        clients = [threading.Thread(target=flood.client) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        wait_until(lambda: time.monotonic() > flood.until - MINUTE * 5 / 6, "the flood has lasted for a while", MINUTE)
        before = memory(it)
        for client in clients:
            client.join()
        after = memory(it)
        assert set(flood.codes) == {202, 503}, flood.codes
        assert flood.codes.total() > 3 * flood.codes[202] or flood.codes[503] > 1000
        assert flood.without_time == 0
        assert [new - old for new, old in zip(after, before, strict=True) if new - old > GROWTH] == []
        states = wait_until(
            lambda: s if not (s := it.stats()["states"])["queued"] + s["running"] else None, "all have ended", 120
        )
        assert states["failed"] == 0
        assert 2000 <= sum(states.values()) <= flood.codes[202]
        print(
            f"{dict(flood.codes)}, grown by {[(new - old) >> 10 for new, old in zip(after, before, strict=True)]} KiB"
        )
