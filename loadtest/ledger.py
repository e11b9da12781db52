"""What was sent, what was answered, who was killed: a line each, on disk before it counts."""

import json
import os
import time
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import requests

from . import client

SHORT, LONG = (0.05, 0.8), 4.0  # seconds; the long ones outlive a lease and a drain of 3 s


class Ledger:
    """One file for several processes: an appended line is never torn by another's."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def note(self, event: str, **what: Any) -> None:
        line = json.dumps({"event": event, "at": time.time()} | what)
        os.write(self._file, line.encode() + b"\n")
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Wish(NamedTuple):
    job: str
    args: dict[str, Any]


def wish(seed: int, number: int) -> Wish:
    """What the request with this number asks for: the same with every run of a seed."""
    dice = Random(f"{seed}/{number}")
    kind = dice.random()
    if kind < 0.65:
        return Wish("noop", {"job_id": number})
    if kind < 0.88:
        return Wish("sleep", {"job_id": number, "seconds": round(dice.uniform(*SHORT), 3)})
    if kind < 0.90:
        return Wish("sleep", {"job_id": number, "seconds": LONG})
    return Wish("flaky", {"failures": dice.randrange(3)})


# What follows runs in the client processes.


@cache
def opened(path: str) -> Ledger:
    return Ledger(path)


def submit(path: str, seed: int, number: int) -> str:
    """Send one job, and note it before and after; returns what it was noted as."""
    it, ledger, asked = client._client, opened(path), wish(seed, number)
    ledger.note("sent", number=number, job=asked.job, args=asked.args)
    it.job = json.dumps({"job": asked.job, "args": asked.args}).encode()
    answer = it.submit(number)
    event = "accepted" if answer.id else "unknown" if answer.unknown else "refused"
    ledger.note(event, number=number, **({"id": answer.id} if answer.id else {"reason": answer.reason}))
    return event


def fetch(id: str) -> tuple[str, dict[str, Any]]:
    """The job's document, or {} when there is none to be had."""
    it = client._client
    try:
        response = it.transport.send("GET", f"/jobs/{id}")
        return id, response.json() if response.status_code == 200 else {}
    except (requests.RequestException, ValueError):
        return id, {}
