"""/jobs: submit, follow, cancel, retry."""

from __future__ import annotations

import time
from urllib.parse import urlencode

from service.errors import BadArguments, NotFound, Removed, WrongState
from service.handlers.base import Handler
from service.handlers.body import Filter, Submission, preferred_wait
from service.handlers.intake import Intake
from service.handlers.view import document, line
from service.job import REQUEUED_FROM, Record, State
from service.keys import ADMIN

WAIT_MAX = 60.0  # seconds; less than nginx waits for an answer (nginx/proxy.conf)
PAGE, PAGE_MAX = 50, 1000  # jobs


class Follow(Handler):
    """What all do that show one job."""

    async def record(self, id: str) -> Record:
        """Raises NotFound, Removed."""
        record = await self.server.backlog.get(id)
        if record is None:
            if await self.server.backlog.removed(id):
                raise Removed(f"job {id} is not kept any more: if it was accepted once, it has ended (KEEP, KEEP_MAX)")
            raise NotFound(f"there is no job {id}")
        return record

    async def ended(self, id: str, wait: float) -> Record:
        """The job once it has ended, or as it stands when `wait` seconds have passed. Raises NotFound, Removed."""
        until = time.monotonic() + min(wait, WAIT_MAX)
        record = await self.record(id)
        while not record.state.ended and not self.server.watch.full:
            if not await self.server.watch.change(id, record.version, until - time.monotonic()):
                break
            record = await self.record(id)
        return record


class Jobs(Intake, Follow):
    methods = ("GET", "HEAD", "POST")

    async def post(self) -> None:
        submission: Submission = self.body(Submission)
        receipt = await self.accept(submission)
        wait = preferred_wait(self.request.headers.get("Prefer"))
        if wait is not None and receipt.state is not None:
            self.set_header("Preference-Applied", f"wait={min(wait, WAIT_MAX):g}")
            record = await self.ended(receipt.id, wait)
            if record.state.ended:
                return self.answer(200, document(record))
        self.answer(202, self.receipt(submission, receipt))

    async def get(self) -> None:
        asked = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        if unknown := asked.keys() - {"state", "job", "limit", "cursor"}:
            raise BadArguments(f"a list is asked for by state, job, limit and cursor, not by {sorted(unknown)}")
        state, name = one_of_states(asked.get("state")), asked.get("job")
        limit = whole(asked.get("limit", str(PAGE)), "limit", PAGE_MAX)
        before = whole(asked["cursor"], "cursor", 2**62) if "cursor" in asked else None
        page = await self.server.backlog.page(state, name, before, limit)
        following = None
        if page.next is not None:
            following = f"/jobs?{urlencode(asked | {'cursor': page.next})}"
            self.set_header("Link", f'<{following}>; rel="next"')
        self.answer(200, {"jobs": [line(job) for job in page.jobs], "next": following})


def one_of_states(text: str | None) -> State | None:
    try:
        return State(text) if text is not None else None
    except ValueError:
        raise BadArguments(f"state is one of {', '.join(State)}") from None


def whole(text: str, name: str, most: int) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text[:20]) <= most:
        return int(text)
    raise BadArguments(f"{name} is a whole number from 1 to {most}")


class JobById(Follow):
    methods = ("GET", "HEAD", "DELETE")
    version: int | None = None

    async def get(self, id: str) -> None:
        wait = self.get_query_argument("wait", None)
        record = await (self.record(id) if wait is None else self.ended(id, whole(wait, "wait", 3600)))
        self.version = record.version
        self.answer(200, document(record))

    def compute_etag(self) -> str | None:
        return f'"{self.version}"' if self.version is not None else None

    async def delete(self, id: str) -> None:
        found = await self.server.backlog.cancel(id)
        if found is None:
            await self.record(id)  # says why
        if found is not None and found.ended:
            raise WrongState(f"job {id} had ended already: it is {found}", state=found)
        self.answer(202 if found == State.RUNNING else 200, document(await self.record(id)))


class Retry(Intake, Follow):
    methods = ("POST",)
    scopes = dict.fromkeys(methods, ADMIN)

    async def post(self, id: str) -> None:
        found = await self.server.backlog.requeue(id)
        if found not in REQUEUED_FROM:
            record = await self.record(id)  # says why, if it is not here
            raise WrongState(
                f"only what has failed, was cancelled or expired is run again: this job is {record.state}",
                state=record.state,
            )
        self.server.consumer.wake()
        self.set_header("Location", f"/jobs/{id}")
        self.answer(202, {"id": id, "state": State.QUEUED})


class RetryMany(Handler):
    methods = ("POST",)
    scopes = dict.fromkeys(methods, ADMIN)

    async def post(self) -> None:
        """In bites, so that intake goes on. What fails again meanwhile is not taken twice."""
        asked: Filter = self.body(Filter)
        began, retried = time.time(), 0
        while some := await self.server.backlog.requeue_many(State(asked.state), asked.job, began):
            retried += some
            self.server.consumer.wake()
        self.answer(200, {"retried": retried})
