"""Lines become jobs on disk, and a receipt each: `{"id": …}` or `{"problem": {…}}`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import repeat

import msgspec

from service.errors import Refused, ShuttingDown, StoreBusy, StoreError, StormdrainError, TooLarge
from service.handlers.base import RETRY_LATER, Server
from service.handlers.body import Submission, parse, parse_lines
from service.handlers.intake import job_of
from service.job import Job, Receipt

LONG = 4096  # bytes of a line that is not read together with others: to read it twice costs too much

log = logging.getLogger(__name__)


class Bulk:
    """The lines of one request, in order."""

    def __init__(self, server: Server, request_id: str) -> None:
        self._server, self._request_id = server, request_id
        self._busy: StoreBusy | None = None
        self.count = self.accepted = 0

    def chunk(self) -> None:
        """Call before the lines of another chunk: a store that was busy is asked again."""
        self._busy = None

    async def put(self, lines: Sequence[bytes | None]) -> bytes:
        """The receipts of some lines (None: too long), once all of them are on disk or refused."""
        numbered = list(self._numbered(lines))
        short = [line for _, line in numbered if line is not None and len(line) <= LONG]
        together = parse_lines(short) if len(short) == len(numbered) else None
        entries = [
            (number, self._job(number, line, submission))
            for (number, line), submission in zip(numbered, together or repeat(None), strict=False)
        ]
        answers = iter(await self._put([entry for _, entry in entries if isinstance(entry, Job)]))
        return b"".join(
            self.receipt(number, next(answers)) if isinstance(entry, Job) else entry for number, entry in entries
        )

    def _numbered(self, lines: Sequence[bytes | None]) -> Iterator[tuple[int, bytes | None]]:
        """Empty lines count, and are left out: they get no receipt."""
        for line in lines:
            self.count += 1
            if line is None or line.strip(b" \t\r"):
                yield self.count, line

    def _job(self, number: int, line: bytes | None, submission: Submission | None) -> Job | bytes:
        """`submission` is the line as it was read together with others, if it was. The receipt, if it is refused: were
        it the exception, its traceback would lead back to who keeps it, until the next collection."""
        if self._server.draining:
            return self.receipt(number, ShuttingDown("this line was not looked at: send it again"))
        if self._busy:
            return self.receipt(number, self._busy)
        if line is None:
            return self.receipt(number, TooLarge(f"the line is above BODY_MAX={self._server.config.body_max} bytes"))
        try:
            return job_of(submission or parse(line, Submission), self._server.config)
        except Refused as refused:
            return self.receipt(number, refused)
        except Exception:
            log.exception("a line failed")
            return self.receipt(number, StormdrainError(f"it is in the log under {self._request_id}"))

    async def _put(self, jobs: Sequence[Job]) -> list[Receipt | StoreError]:
        answers = await self._server.backlog.put_all(jobs) if jobs else []
        accepted = sum(isinstance(answer, Receipt) for answer in answers)
        if accepted:
            self.accepted += accepted
            self._server.consumer.wake()
        # One wait for all that has been read, not one for each window: nginx must not find us hanging.
        self._busy = next((answer for answer in answers if isinstance(answer, StoreBusy)), self._busy)
        return answers

    def receipt(self, line: int, answer: Receipt | StormdrainError) -> bytes:
        if isinstance(answer, Receipt):
            return b'{"id":"%b"}\n' % answer.id.encode()
        problem = answer.problem() | {"line": line}
        if answer.status in RETRY_LATER:
            problem["retry_after"] = self._server.retry_after(answer.slug)
        return msgspec.json.encode({"problem": problem}) + b"\n"
