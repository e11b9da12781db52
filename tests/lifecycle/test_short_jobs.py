"""A flood of short jobs, which share slots: every one of them is still a job of its own."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import requests

from tests.support import ROOT, Server, server, wait_until

JOBS = """
import os, time
from service.registry import job

@job(attempts=1, timeout=5)
def short(n):
    if n % 400 == 7:
        os._exit(3)
    if n % 400 == 9:
        time.sleep(0.5)
    if n % 100 == 11:
        raise ValueError(f"job {n}")
    if n % 100 == 13:
        print("printed by", n)
    return [n, os.getpid()]
"""
MANY = 2_000


def submit(it: Server, first: int, count: int) -> list[str]:
    lines = "".join(json.dumps({"job": "short", "args": {"n": n}}) + "\n" for n in range(first, first + count))
    answer = requests.post(f"{it.url}/jobs", lines, headers={"Content-Type": "application/x-ndjson"}, timeout=60)
    return [json.loads(line)["id"] for line in answer.text.splitlines()]


def documents(it: Server, ids: list[str]) -> list[dict[str, Any]]:
    wait_until(lambda: not sum(it.stats()["states"][state] for state in ("queued", "running")), "all have ended", 60)
    with requests.Session() as session:
        return [session.get(f"{it.url}/jobs/{id}", timeout=10).json() for id in ids]


def test_among_short_jobs_each_has_its_own_end_and_only_the_one_that_crashes_is_blamed(tmp_path: Path) -> None:
    (tmp_path / "short_jobs.py").write_text(JOBS)
    with server(tmp_path, JOBS="short_jobs", PYTHONPATH=f"{ROOT}:{tmp_path}", PRODUCERS="1", SLOTS="2") as it:
        submit(it, 20, 60)  # so that it is known how short they are
        ids = submit(it, 0, MANY)
        jobs = documents(it, ids)
    for n, job in enumerate(jobs):
        last = job["history"][-1]
        before = Counter(entry["outcome"] for entry in job["history"][:-1])
        assert set(before) <= {"returned"}, job  # what waited behind a crash or a long one goes back, unharmed
        assert job["attempt"] == 1
        assert last["output"] == (f"printed by {n}\n" if n % 100 == 13 else None), job
        if n % 400 == 7:
            assert (job["state"], last["outcome"]) == ("failed", "crashed")
            assert last["reason"] == "the slot's process exited with code 3"
        elif n % 100 == 11:
            assert (job["state"], job["error"]["message"]) == ("failed", f"job {n}")
        else:
            assert (job["state"], job["result"][0]) == ("succeeded", n)
    returned = [job for job in jobs if len(job["history"]) > 1]
    assert returned, "nothing shared a slot"
    assert all(entry["reason"].startswith("not begun: ") for job in returned for entry in job["history"][:-1])
    assert os.getpid() not in {job["result"][1] for job in jobs if job["result"]}
