"""What each command does. Its exit code is the highest of what went wrong."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat
from typing import Any

from service import exits
from service.cli import show
from service.cli.input import Wrong, from_line, from_options, job_ids
from service.cli.screen import Screen, Trouble
from service.client import Client, ClientError, Receipt, Refused, Submission, Summary, TimedOut, Unavailable

log = logging.getLogger("service.client")

PAGE = 200  # jobs, of a list


def run(given: Namespace) -> int:
    screen = Screen(given.json)
    log.setLevel(logging.INFO)
    log.addHandler(Trouble(screen))
    try:
        with connect(given) as client:
            return Command(client, screen).run(given)
    except Wrong as error:
        screen.complain(show.inert(str(error)))
        return exits.USAGE


def connect(given: Namespace) -> Client:
    try:
        return Client(given.url, retry_for=given.retry_for)
    except ValueError as error:
        raise Wrong(f"STORMDRAIN_URL, --url or STORMDRAIN_KEY: {error}") from None


class Command:
    def __init__(self, client: Client, screen: Screen) -> None:
        self.client, self.screen = client, screen
        self.code = exits.OK
        self.tally: Counter[str] = Counter()
        self.numbers: deque[int] = deque()  # of the lines whose jobs are under way

    def run(self, given: Namespace) -> int:
        commands: dict[str, Callable[[Namespace], None]] = {
            "submit": self.submit,
            "status": self.status,
            "wait": self.wait,
            "list": self.list_jobs,
            "cancel": self.cancel,
            "retry": self.retry,
        }
        try:
            commands[given.command](given)
        except ClientError as error:
            self.note(error)
        if self.tally.total() > 1:
            self.screen.complain(", ".join(f"{count} {what}" for what, count in self.tally.most_common()))
        return self.code

    # What was asked for

    def submit(self, given: Namespace) -> None:
        if given.job == "-":
            submissions, total = self.lines(), None
        else:
            total = given.count or 1
            submissions = repeat(from_options(given), total)
        if given.wait or given.wait_timeout is not None:
            return self.results(self.accepted(submissions), total, given.wait_timeout)
        with self.screen.bar("accepted", total) as advance:
            for receipt in self.accepted(submissions):
                self.tally["accepted"] += 1
                self.screen.show(receipt.document, show.receipt(receipt))
                advance()

    def status(self, given: Namespace) -> None:
        ids = job_ids(given.ids)
        for job in self.each(ids, self.client.status):
            self.screen.show(job.document, *(show.page(job) if len(ids) == 1 else [show.line(job)]))

    def wait(self, given: Namespace) -> None:
        ids = job_ids(given.ids)
        self.results(ids, len(ids), given.timeout)

    def list_jobs(self, given: Namespace) -> None:
        limit = None if given.all else given.limit
        jobs = self.client.jobs(given.state, given.job, min(limit or PAGE, PAGE))
        shown = 0
        for job in islice(jobs, limit):
            self.screen.show(job.document, show.line(job))
            shown += 1
        if shown == limit and sys.stderr.isatty():
            self.screen.complain(f"the newest {limit}; --limit N for more, --all for all")

    def cancel(self, given: Namespace) -> None:
        for job in self.each(job_ids(given.ids), self.client.cancel):
            killed = f"{show.GAP}is being killed" if job.state == "running" else ""
            self.screen.show(job.document, show.line(job) + killed)

    def retry(self, given: Namespace) -> None:
        if given.state:
            retried = self.client.retry_all(given.state, given.job)
            return self.screen.show({"retried": retried}, f"{retried} queued again")
        for job in self.each(job_ids(given.ids), self.client.retry):
            self.screen.show(job.document, show.line(job))

    # How it went

    def each(self, ids: list[str], ask: Callable[[str], Any]) -> Iterator[Any]:
        """A refusal is told, and keeps none of the others."""
        for id in ids:
            try:
                yield ask(id)
            except Refused as refused:
                self.note(refused)

    def lines(self) -> Iterator[Submission]:
        """The jobs on the standard input. A wrong line is told, and keeps none of the others."""
        for number, line in enumerate(sys.stdin.buffer, 1):
            if not line.strip():
                continue
            try:
                submission = from_line(line)
            except Wrong as error:
                self.refuse({"title": "not sent", "detail": str(error)}, f"not sent: {error}", number)
            else:
                self.numbers.append(number)
                yield submission

    def accepted(self, submissions: Iterable[Submission]) -> Iterator[Receipt]:
        for outcome in self.client.submit_many(submissions):
            number = self.numbers.popleft() if self.numbers else None
            if isinstance(outcome, Refused):
                self.refuse(outcome.problem, show.refusal(outcome), number)
            else:
                yield outcome

    def refuse(self, problem: dict[str, Any], told: str, number: int | None) -> None:
        """In a JSON output too: there is something for each job, and each line says which it belongs to."""
        where, line = (f"line {number}: ", {"line": number}) if number else ("", {})
        self.tally["refused"] += 1
        self.screen.show({"problem": problem} | line)
        self.worst(exits.REFUSED, where + show.inert(told))

    def results(self, jobs: Iterable[str | Receipt], total: int | None, timeout: float | None) -> None:
        with self.screen.bar("ended", total) as advance:
            for job in self.client.results(jobs, timeout):
                self.ended(job)
                advance()

    def ended(self, job: Summary) -> None:
        self.tally[job.state] += 1
        self.screen.show(job.document or {"id": job.id, "state": job.state}, show.line(job))
        self.worst(exits.OK if job.succeeded else exits.UNSUCCESSFUL)

    def note(self, error: ClientError) -> None:
        match error:
            case Refused():
                self.worst(exits.REFUSED, show.refusal(error))
            case TimedOut():
                self.worst(exits.TIMED_OUT, str(error))
            case Unavailable():
                self.worst(exits.NO_ANSWER, show.unavailable(error, self.client.url))
            case _:
                self.worst(exits.NO_ANSWER, show.inert(f"{error}. Is {self.client.url} a Stormdrain?"))

    def worst(self, code: int, sentence: str = "") -> None:
        self.code = max(self.code, code)
        if sentence:
            self.screen.complain(sentence)
