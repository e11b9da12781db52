"""What the stages share, so that what differs between two of them is the idea."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from typing import Any

from tornado.web import HTTPError, RequestHandler

from service import jobs, linux


@dataclass(frozen=True)
class Job:
    """The job of every request: `sleep` waits for `amount` seconds, `primes` computes, up to the number `amount`."""

    name: str = "sleep"
    amount: float = 1.0

    def __call__(self, number: Any) -> None:
        if self.name == "sleep":
            jobs.sleep(self.amount)
        else:
            jobs.primes(int(self.amount))
        finished(number)


def finished(number: Any) -> None:
    """One line on standard output, in one write: many threads and processes share it."""
    os.write(1, f"{number} done\n".encode())


@dataclass(frozen=True)
class Options:
    port: int
    job: Job
    pool: str


class Handler(RequestHandler):
    def initialize(self, job: Job) -> None:
        self.job = job

    def number(self) -> Any:
        """Whatever the client calls this request."""
        try:
            return json.loads(self.request.body)["job_id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise HTTPError(400, reason='Send a body such as {"job_id": 7}') from None


def end_with_server() -> None:
    """For the processes of a pool: Ctrl-C is the server's, and without it they would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    linux.die_with_parent()
