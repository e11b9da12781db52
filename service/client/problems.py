"""What can go wrong for a client, as classes.

ClientError
├── Unavailable      no answer that settles it came in time; `unknown`: it may have been done all the same
├── Refused          an answer of 4xx: it was not done, and would not be if it were repeated
│   ├── NotAllowed   401, 403
│   ├── NotFound     404: no such job, or no function of that name
│   │   └── Removed  410: the job has ended, and is not kept any more
│   └── Conflict     409: the job is in no state for this
├── Unexpected       an answer that the HTTP contract does not know: is this a Stormdrain?
├── TimedOut         jobs had not ended in time; they go on
└── JobFailed        its value was asked for, and it has none
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.client.documents import Job, Submission


class ClientError(Exception):
    """The root of what the client raises."""


class Unavailable(ClientError):
    """`reason` of the last attempt; `unknown`: one of them may have been done all the same, so repeat it only with
    the same idempotency key. `problem` is the last answer's, if there was one."""

    def __init__(self, reason: str, unknown: bool, problem: dict[str, Any]) -> None:
        super().__init__(reason)
        self.reason, self.unknown, self.problem = reason, unknown, problem


class Refused(ClientError):
    """`problem` is the answer's (RFC 9457); `submission` what was refused, if it was one. `doubtful`: before this
    answer another attempt may have been done, which then is what stands in the way."""

    submission: Submission | None = None

    def __init__(self, status: int, problem: dict[str, Any], doubtful: bool = False) -> None:
        title, detail = (problem.get(member) for member in ("title", "detail"))
        super().__init__(f"{status} {title or 'refused'}" + (f": {detail}" if detail else ""))
        self.status, self.problem, self.doubtful = status, problem, doubtful


class NotAllowed(Refused):
    """No key, or one that may not do this."""


class NotFound(Refused):
    """There is no such job, or no function of that name."""


class Removed(NotFound):
    """The job has ended, and is not kept any more."""


class Conflict(Refused):
    """The job is in no state for this."""


class Unexpected(ClientError):
    """What answered does not keep the HTTP contract."""


class TimedOut(ClientError):
    """`open`: the ids of the jobs that had not ended. They go on."""

    def __init__(self, timeout: float, open: Iterable[str]) -> None:
        self.timeout, self.open = timeout, tuple(open)
        what = f"job {self.open[0]} has" if len(self.open) == 1 else f"{len(self.open)} jobs have"
        super().__init__(f"{what} not ended within {timeout:g} s")


class JobFailed(ClientError):
    """`job`: it has ended, and not as succeeded."""

    def __init__(self, job: Job) -> None:
        self.job = job
        told = f": {job.error.type}: {job.error.message}" if job.error else ""
        super().__init__(f"job {job.id} ({job.job}) is {job.state}{told}")


BY_STATUS: dict[int, type[Refused]] = {401: NotAllowed, 403: NotAllowed, 404: NotFound, 409: Conflict, 410: Removed}
