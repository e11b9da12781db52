"""The Python client: `from service.client import Client`. It needs requests: pip install 'stormdrain[client]'.

client       Client: submit, wait, results, cancel, retry; start reading here
follow       pure: which of many open jobs to look at next
patience     one request, repeated until it is answered or time is up
transport    one attempt, and what a failed one means; the load generator measures with this
documents    what is sent and what comes back, as frozen records
problems     what can go wrong, as classes
"""

try:
    import requests as _requests  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "requests":
        raise
    raise ModuleNotFoundError("the client needs requests: pip install 'stormdrain[client]'", name="requests") from None

from service.client.client import Client
from service.client.documents import ENDS, Attempt, Job, Receipt, Submission, Summary
from service.client.problems import (
    ClientError,
    Conflict,
    JobFailed,
    NotAllowed,
    NotFound,
    Refused,
    Removed,
    TimedOut,
    Unavailable,
    Unexpected,
)

__all__ = [
    "ENDS",
    "Attempt",
    "Client",
    "ClientError",
    "Conflict",
    "Job",
    "JobFailed",
    "NotAllowed",
    "NotFound",
    "Receipt",
    "Refused",
    "Removed",
    "Submission",
    "Summary",
    "TimedOut",
    "Unavailable",
    "Unexpected",
]
