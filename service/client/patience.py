"""One request, repeated until it is answered or time is up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from random import random
from threading import Event
from typing import Any

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from service.client.documents import lenient
from service.client.problems import BY_STATUS, Refused, Unavailable, Unexpected
from service.client.transport import Transport, blame, distrusted

log = logging.getLogger(__name__)

NOT_NOW = frozenset({429, 502, 503, 504, 507})  # a limit, nobody there, full: another attempt may be answered
DOUBT = frozenset({502, 504})  # nginx gave up on the server, which may have done it all the same
FIRST, MOST = 0.1, 5.0  # seconds of backoff: after the first attempt, and the most


@dataclass(frozen=True, slots=True)
class Request:
    """`wait` is seconds that the server may take beyond the time-out; `not_now`: the answers after which it is sent
    again; `repeatable`: also when an attempt may have been done."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0
    not_now: frozenset[int] = NOT_NOW
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Miss:
    """An attempt that settled nothing. `after`: seconds before the next, as the server asks; `final`: there is none."""

    reason: str
    unknown: bool
    after: float = 0.0
    problem: Mapping[str, Any] = field(default_factory=dict)
    final: bool = False


class Patience:
    def __init__(self, transport: Transport, retry_for: float) -> None:
        self._transport, self._retry_for = transport, retry_for
        self._stopped = Event()

    def ask(self, request: Request) -> requests.Response:
        """An answer of 2xx. Raises Refused, Unexpected, Unavailable."""
        deadline, doubt = time.monotonic() + self._retry_for, False
        for attempt in count():
            match self._attempt(request):
                case Miss() as miss:
                    doubt |= miss.unknown
                    self._wait(request, miss, attempt, deadline, doubt)
                case response:
                    return checked(response, doubt)
        raise AssertionError("count() has no end")

    def _attempt(self, request: Request) -> requests.Response | Miss:
        try:
            response = self._transport.send(request.method, request.path, request.body, request.headers, request.wait)
        except requests.RequestException as error:
            if isinstance(error, ValueError):  # an address that nobody can be asked at
                raise
            if distrusted(error):
                return Miss("its certificate is not good", unknown=False, final=True)
            return Miss(*blame(error))
        if response.status_code not in request.not_now:
            return response
        return Miss(say(response), response.status_code in DOUBT, retry_after(response), lenient(response) or {})

    def _wait(self, request: Request, miss: Miss, attempt: int, deadline: float, doubt: bool) -> None:
        """Raises Unavailable when there shall be no other attempt."""
        left = deadline - time.monotonic()
        over = left <= 0 or miss.after > left or miss.final or (miss.unknown and not request.repeatable)
        if over or self._stopped.is_set():
            raise Unavailable(miss.reason, doubt, dict(miss.problem))
        pause = min(miss.after + backoff(attempt), max(left, miss.after))
        log.info("%s; trying again, for %.0f s at most", miss.reason, left)
        self._stopped.wait(pause)

    def stop(self) -> None:
        """What is under way in other threads is not repeated any more."""
        self._stopped.set()


def checked(response: requests.Response, doubt: bool) -> requests.Response:
    status = response.status_code
    if 200 <= status < 300:
        return response
    if 400 <= status < 500:
        raise BY_STATUS.get(status, Refused)(status, lenient(response) or {}, doubt)
    raise Unexpected(f"{response.request.method} {response.url} was answered with {say(response)}")


def say(response: requests.Response) -> str:
    problem = lenient(response) or {}
    told = ": ".join(str(problem[member]) for member in ("title", "detail") if problem.get(member))
    return f"HTTP {response.status_code} {told}".strip()


def backoff(attempt: int, dice: Callable[[], float] = random) -> float:
    """Seconds, all of them jittered: many who were refused together do not return together."""
    return min(MOST, FIRST * 2.0 ** min(attempt, 32)) * dice()


def retry_after(response: requests.Response) -> float:
    """Seconds, of a number or a date (RFC 9110, 10.2.3); 0 when nothing is asked, or nothing that is understood."""
    try:
        return float(Retry().parse_retry_after(response.headers["Retry-After"]))
    except (KeyError, InvalidHeader):
        return 0.0
