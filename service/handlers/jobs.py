"""/jobs: submit, follow, cancel, retry."""

from __future__ import annotations

import time
from typing import TypeVar
from urllib.parse import urlencode
from zlib import crc32

import msgspec
from msgspec import UnsetType

from service.errors import NotFound, Removed, StoreError, WrongState
from service.handlers.answers import Page, Retried
from service.handlers.base import Handler
from service.handlers.body import Filter, Listing, Submission, Waiting, preferred_wait
from service.handlers.intake import Intake, receipt_of
from service.handlers.view import document, line
from service.job import REQUEUED_FROM, Record, State
from service.keys import ADMIN

T = TypeVar("T")

LOOK_AFTER = 5.0  # seconds, after which a client that is gone no longer takes a place among those who wait
WAIT_MAX = 60.0  # seconds; less than nginx waits for an answer (nginx/proxy.conf)


class Follow(Handler):
    """What all do that show one job."""

    gone = False  # True: whoever asked does not wait any more

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
        while not (record.state.ended or self.gone or self.server.watch.full) and time.monotonic() < until:
            await self.server.watch.change(id, record.version, min(until - time.monotonic(), LOOK_AFTER))
            record = await self.record(id)
        return record

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.gone = True


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
        self.answer(202, receipt_of(self.server, submission, receipt))

    async def get(self) -> None:
        asked = self.query(Listing)
        page = await self.server.backlog.page(given(asked.state), given(asked.job), given(asked.cursor), asked.limit)
        following = None
        if page.next is not None:
            following = f"/jobs?{urlencode(msgspec.to_builtins(asked) | {'cursor': page.next})}"
            self.set_header("Link", f'<{following}>; rel="next"')
        self.answer(200, Page([line(job) for job in page.jobs], following))


def given(value: T | UnsetType) -> T | None:
    return None if isinstance(value, UnsetType) else value


class JobById(Follow):
    methods = ("GET", "HEAD", "DELETE")
    tag: str | None = None

    async def get(self, id: str) -> None:
        wait = given(self.query(Waiting).wait)
        record = await (self.record(id) if wait is None else self.ended(id, wait))
        self.tag = f'"{record.version}"' if record.callback is None else f'"{record.version}.{crc32(record.callback)}"'
        self.answer(200, document(record))

    def compute_etag(self) -> str | None:
        return self.tag

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
        self.answer(202, document(await self.record(id)))


class RetryMany(Handler):
    methods = ("POST",)
    scopes = dict.fromkeys(methods, ADMIN)

    async def post(self) -> None:
        """In bites, so that intake goes on. What fails again meanwhile is not taken twice."""
        asked: Filter = self.body(Filter)
        began, retried = time.time(), 0
        try:
            while some := await self.server.backlog.requeue_many(State(asked.state), asked.job, began):
                retried += some
                self.server.consumer.wake()
                if time.time() > began + WAIT_MAX:
                    return self.answer(200, Retried(retried, complete=False))
        except StoreError:
            if not retried:
                raise
            return self.answer(200, Retried(retried, complete=False))  # a refusal would say that nothing was done
        self.answer(200, Retried(retried))
