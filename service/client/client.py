"""Client: submit, wait, results, cancel, retry."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from math import inf
from multiprocessing.pool import ThreadPool  # its threads are daemons: they keep no process from ending
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import urlencode
from uuid import uuid4

from service.client.documents import (
    MISSING,
    REMOVED,
    Job,
    Receipt,
    Record,
    Submission,
    Summary,
    convert,
    encode,
    json_object,
    read,
)
from service.client.follow import LONG, Follow, Look
from service.client.patience import NOT_NOW, Patience, Request
from service.client.problems import Conflict, NotFound, Refused, Removed, TimedOut, Unexpected
from service.client.transport import Transport, header_value

URL = "http://127.0.0.1:8080"

AHEAD = 4  # submits under way for each connection: the next is there as soon as one is answered
FEED = 100  # submits between two rounds of looks, while there are more to come
PAUSE = 0.2  # seconds for a round that has shown nothing new, where the server did not hold its looks
PAGE = 200  # jobs, of a list

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")


class Options(TypedDict, total=False):
    """Of a submit, see Submission."""

    delay: float | None
    run_at: datetime | str | None
    priority: int | None
    timeout: float | None
    attempts: int | None
    expires_in: float | None
    deadline: datetime | str | None
    callback: str | None
    idempotency_key: str | None


class Client:
    """To one stack; for several threads. Wherever it takes a job, that is an id, a receipt or a job.

    url          default: STORMDRAIN_URL, or http://127.0.0.1:8080
    key          "id.secret", where the server wants keys; default: STORMDRAIN_KEY
    timeout      seconds to connect, and again to wait for an answer
    retry_for    seconds for which a request is repeated that got no answer, or 429, 502, 503, 504 or 507
    connections  how many at once, for `submit_many` and `results`

    Every call raises Refused, Unavailable or Unexpected (all of them ClientError). ValueError: what cannot be sent."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 10.0,
        retry_for: float = 60.0,
        connections: int = 8,
    ) -> None:
        url = url or os.environ.get("STORMDRAIN_URL") or URL
        key = os.environ.get("STORMDRAIN_KEY", "") if key is None else key
        self._connections = connections
        self._transport = Transport(url, key, timeout=timeout, connections=2 * connections)
        self._patience = Patience(self._transport, retry_for)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return self._transport.url

    def close(self) -> None:
        self._patience.stop()
        self._transport.close()

    # Submit

    def submit(
        self, job: str | Submission, args: Mapping[str, Any] | None = None, **options: Unpack[Options]
    ) -> Receipt:
        """It is on disk when this returns. Sent again under the same idempotency key until it is answered."""
        if isinstance(job, Submission):
            return self._submit(job)
        return self._submit(Submission(job, args or {}, **options))

    def _submit(self, submission: Submission) -> Receipt:
        request = Request(
            "POST",
            "/jobs",
            submission.body(),
            {"Idempotency-Key": quoted(submission.idempotency_key or uuid4().hex)},
            not_now=NOT_NOW | {409},  # an earlier attempt with this key is being stored right now
        )
        response = self._patience.ask(request)
        return read(Receipt, response, replayed=response.headers.get("Idempotency-Replayed") == "true")

    def submit_many(self, submissions: Iterable[Submission]) -> Iterator[Receipt | Refused]:
        """For each in turn its receipt, or why it was refused, which does not keep the others from being accepted. Some
        are sent ahead, so some of those not yet handed out can be accepted when this is ended early."""
        with ThreadPool(self._connections) as pool:
            under_way: deque[Any] = deque()
            for submission in submissions:
                under_way.append(pool.apply_async(self._receipt_or_refusal, (submission,)))
                if len(under_way) >= AHEAD * self._connections:
                    yield under_way.popleft().get()
            while under_way:
                yield under_way.popleft().get()

    def _receipt_or_refusal(self, submission: Submission) -> Receipt | Refused:
        try:
            return self._submit(submission)
        except Refused as refused:
            refused.submission = submission
            return refused

    # Follow

    def status(self, job: str | Record) -> Job:
        """Raises NotFound, Removed too."""
        return self._look(identify(job), 0)

    def wait(self, job: str | Record, timeout: float | None = None) -> Job:
        """The job once it has ended, however it did: `value()` is its result. `timeout` is seconds. Raises TimedOut,
        NotFound, Removed too."""
        id, deadline = identify(job), deadline_of(timeout)
        while not (seen := self._held(id, deadline)).ended:
            if time.monotonic() >= deadline:
                raise TimedOut(timeout or 0.0, [id])
        return seen

    def _held(self, id: str, deadline: float) -> Job:
        began = time.monotonic()
        seen = self._look(id, whole_seconds(LONG, deadline))
        if not seen.ended:
            rest(began, deadline)
        return seen

    def results(self, jobs: Iterable[str | Record | Refused], timeout: float | None = None) -> Iterator[Job]:
        """Each of the jobs, once, as soon as it has ended, in the order in which they end. The state of a job that
        cannot be shown is `removed` (it has ended, and is not kept any more) or `missing`.

        `jobs` may be what `submit_many` gives: they are followed while others are still sent. A refusal among them is
        raised. Raises TimedOut, with those that have not ended, after `timeout` seconds."""
        follow, deadline, source = Follow(self._connections), deadline_of(timeout), iter(jobs)
        with ThreadPool(self._connections) as pool:
            while (more := feed(follow, source)) or follow.open:
                if time.monotonic() >= deadline:
                    raise TimedOut(timeout or 0.0, follow.open)
                yield from self._round(pool.imap_unordered, follow, deadline, more)

    def _round(
        self, at_once: Callable[..., Iterator[Job]], follow: Follow, deadline: float, more: bool
    ) -> Iterator[Job]:
        began = time.monotonic()
        looks = [Look(id, whole_seconds(wait, deadline)) for id, wait in follow.round(began, more)]
        for job in at_once(self._seen, looks):
            follow.note(job, time.monotonic(), time.time())
            if job.ended:
                yield job
        follow.learn()
        if follow.idle and not more:
            rest(began, deadline)

    def _seen(self, look: Look) -> Job:
        try:
            return self._look(*look)
        except Removed:
            return Job(id=look.id, state=REMOVED)
        except NotFound:
            return Job(id=look.id, state=MISSING)

    def _look(self, id: str, wait: int) -> Job:
        path = f"/jobs/{id}" + (f"?wait={wait}" if wait else "")
        seen = read(Job, self._patience.ask(Request("GET", path, wait=wait)))
        if seen.id != id:
            raise Unexpected(f"job {id} was asked for, and {seen.id!r} came")
        return seen

    def jobs(self, state: str | None = None, job: str | None = None, page: int = PAGE) -> Iterator[Summary]:
        """All of them, or those of one state, of one function; newest first. Asked for by the page."""
        asked = {"state": state, "job": job, "limit": page}
        path: str | None = "/jobs?" + urlencode({name: value for name, value in asked.items() if value is not None})
        while path:
            answer = json_object(self._patience.ask(Request("GET", path)))
            if not isinstance(answer.get("jobs"), list):
                raise Unexpected("a list of jobs has no jobs")
            yield from (convert(Summary, each) for each in answer["jobs"])
            path = following(answer)

    # Change

    def cancel(self, job: str | Record) -> Job:
        """The job: cancelled, if it was queued; running still, if it was, while it is being killed. Raises Conflict
        where it had ended otherwise, NotFound, Removed too."""
        id = identify(job)
        try:
            return read(Job, self._patience.ask(Request("DELETE", f"/jobs/{id}")))
        except Conflict:
            if (seen := self.status(id)).state == "cancelled":
                return seen  # by an attempt of ours whose answer was lost, or before: it is what was asked for
            raise

    def retry(self, job: str | Record) -> Job:
        """A failed, cancelled or expired job is queued again. Raises Conflict for others, NotFound, Removed too."""
        id = identify(job)
        try:
            return read(Job, self._patience.ask(Request("POST", f"/jobs/{id}/retry", b"")))
        except Conflict as conflict:
            if conflict.doubtful and not (seen := self.status(id)).ended:
                return seen  # queued by an attempt of ours whose answer was lost
            raise

    def retry_all(self, state: str = "failed", job: str | None = None) -> int:
        """How many are queued again: all of that state, or those of one function. Not repeated where it may have been
        done, since the number would be wrong: then Unavailable says `unknown`."""
        asked = encode({"state": state} | ({"job": job} if job is not None else {}))
        answer = json_object(self._patience.ask(Request("POST", "/jobs/retry", asked, repeatable=False)))
        if not isinstance(answer.get("retried"), int):
            raise Unexpected("how many were retried is missing in the answer")
        return int(answer["retried"])


def identify(job: str | Record) -> str:
    """Raises ValueError for what would be another address."""
    id = job if isinstance(job, str) else job.id
    if not ID.fullmatch(id):
        raise ValueError(f"{id!r} is no job's id")
    return id


def quoted(key: str) -> str:
    """A string of RFC 8941. Raises ValueError."""
    return '"' + header_value(key).replace("\\", r"\\").replace('"', r"\"") + '"'


def feed(follow: Follow, source: Iterator[str | Record | Refused]) -> bool:
    """Some more jobs to follow; whether others may be to come. Raises a refusal that is among them."""
    some = list(islice(source, FEED))
    for each in some:
        if isinstance(each, Refused):
            raise each
    follow.add(identify(each) for each in some if not isinstance(each, Refused))
    return len(some) == FEED


def following(answer: dict[str, Any]) -> str | None:
    """Raises Unexpected for an address elsewhere, which would be handed the key."""
    path = answer.get("next")
    if path is not None and not (isinstance(path, str) and path.startswith("/jobs?")):
        raise Unexpected(f"the next page is said to be at {path!r}")
    return path


def deadline_of(timeout: float | None) -> float:
    return inf if timeout is None else time.monotonic() + timeout


def whole_seconds(wait: int, deadline: float) -> int:
    """As the server takes them, and not beyond the deadline."""
    return int(min(wait, max(deadline - time.monotonic(), 0.0)))


def rest(began: float, deadline: float) -> None:
    """Where the server did not hold what it was asked to hold, as when it holds many already."""
    time.sleep(max(min(began + PAUSE, deadline) - time.monotonic(), 0.0))
