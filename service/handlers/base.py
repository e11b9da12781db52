"""What all handlers share: the server behind them, the headers of every answer, and refusals as problem+json.

Whatever is refused is refused before anything is stored (RFC 9457).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

import msgspec
from tornado.httputil import HTTPHeaders, format_timestamp
from tornado.web import HTTPError, RequestHandler

from service.backlog.aio import AsyncBacklog
from service.config import Config
from service.consumer import Consumer
from service.errors import (
    BacklogFull,
    CrossSite,
    Malformed,
    MissingScope,
    NoKey,
    Refused,
    StoreError,
    StoreFull,
    StormdrainError,
    TooLarge,
    WrongContentType,
    WrongMethod,
)
from service.handlers.body import media_type, parse, parse_query
from service.handlers.streams import Streams
from service.keys import ADMIN, READ, SUBMIT, Keys
from service.log import request_id
from service.metrics import Metrics
from service.publisher import Publisher
from service.watch import Watch

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_LATER = (503, 507)
DISK_AGAIN = 30  # seconds; somebody has to make room
RETRY_AFTER_MAX = 60  # seconds; where nothing is run at all, somebody may be mending it

ID = re.compile(r"[A-Za-z0-9-]{1,64}")
# What curl says of a -d body when nobody told it otherwise; the body is JSON all the same.
JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded")

# What a browser says of a request that no other site's page has caused (Fetch Metadata). Without this, any page
# that a developer visits could send jobs to the stack on loopback.
OWN_SITE = ("none", "same-origin")
PRIVATE = ("localhost", "local", "internal", "test")  # RFC 6761, RFC 6762, and what ICANN keeps for private use

ANY = ""  # the scope where any key will do

# What is shown in a browser must do nothing, and nobody else's page may show or read it. A page brings its own policy.
FIXED_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


@dataclass
class Server:
    """What the handlers of one producer share."""

    config: Config
    backlog: AsyncBacklog
    consumer: Consumer
    watch: Watch
    metrics: Metrics
    publisher: Publisher
    keys: Keys | None = None
    draining: bool = False
    streams: Streams = field(default_factory=Streams)

    def retry_after(self, slug: str) -> int:
        """Whole seconds. A full backlog has room for a hundredth of it when so much has been run."""
        if slug == StoreFull.slug:
            return DISK_AGAIN
        if slug != BacklogFull.slug:
            return 1
        wanted, rate = self.config.backlog_max / 100, self.backlog.drain_rate
        return round(min(max(wanted / rate, 1.0), RETRY_AFTER_MAX)) if rate else RETRY_AFTER_MAX


@lru_cache(maxsize=2)
def date(second: int) -> str:
    return format_timestamp(second)


def id_of(headers: HTTPHeaders) -> str:
    """The request's, as nginx has given it."""
    given = headers.get("X-Request-ID", "")
    return given if ID.fullmatch(given) else uuid4().hex


def from_another_site(headers: HTTPHeaders) -> bool:
    """By what a browser says of its own; by `Origin` where it says nothing."""
    said = headers.get("Sec-Fetch-Site")
    if said is not None:
        return said not in OWN_SITE
    origin = headers.get("Origin")
    return origin is not None and name_in(origin.partition("//")[2]) != name_in(headers.get("Host", ""))


@lru_cache(maxsize=64)
def is_own_name(host: str) -> bool:
    """Whether a Host header has an address, or a name that no stranger can have a public name server answer for: a page
    whose name is made to lead to this machine is of the same site to its browser, and could read and send all."""
    name = name_in(host)
    with suppress(ValueError):
        return bool(ip_address(name))
    return "." not in name or name.rpartition(".")[2] in PRIVATE


def name_in(host: str) -> str:
    """Without the port, and the brackets of an IPv6 address."""
    return re.sub(r":[0-9]*$", "", host).strip("[]").rstrip(".").lower()


class Every:
    """Tornado answers 405 to a method that it does not know, before it asks whoever has a key."""

    def __contains__(self, method: object) -> bool:
        return True


class Handler(RequestHandler):
    SUPPORTED_METHODS = Every()  # type: ignore[assignment]
    methods: ClassVar[tuple[str, ...]] = ("GET", "HEAD")
    open: ClassVar[bool] = False  # also to whoever has no key
    scopes: ClassVar[Mapping[str, str]] = {"GET": READ, "HEAD": READ, "POST": SUBMIT}  # all else is for admins

    def initialize(self) -> None:
        self.server: Server = self.application.settings["server"]
        # Taken away, or Tornado would parse the body as a form before prepare() is asked.
        content_type: str = self.request.headers.pop("Content-Type", "")
        self.content_type = media_type(content_type)
        self.client = ""  # whose API key was shown

    def clear(self) -> None:
        """As RequestHandler does it, without the headers that it sets to have them replaced: for every request."""
        self.request_id = id_of(self.request.headers)
        self._headers = HTTPHeaders({"X-Request-ID": self.request_id, "Date": date(int(time.time()))} | FIXED_HEADERS)
        if self.application.settings["server"].draining:
            self._headers["Connection"] = "close"  # nginx takes its next request to another producer
        self._write_buffer, self._status_code, self._reason = [], 200, "OK"

    def prepare(self) -> None:
        request_id.set(self.request_id)
        self.admit()
        if self.request.method not in self.methods:
            raise WrongMethod(f"{self.request.method} is not allowed here: use {', '.join(self.methods)}")
        if self.changes() and from_another_site(self.request.headers):
            raise CrossSite("a page of another site asks for this; browsers may send jobs from here only")
        if len(self.request.body) > self.server.config.body_max:
            raise TooLarge(f"the body is above BODY_MAX={self.server.config.body_max} bytes")

    def changes(self) -> bool:
        """Whether this asks for more than an answer."""
        return self.request.method not in ("GET", "HEAD")

    def admit(self) -> None:
        """Before anything else is looked at. Raises NoKey, MissingScope."""
        if self.open:
            return
        if self.server.keys is None:
            if not is_own_name(self.request.host):
                raise CrossSite("without API keys, ask by an address, or localhost: any page may have such a name")
            return
        key = self.server.keys.find(self.request.headers.get("Authorization", ""))
        if key is None:
            raise NoKey("send `Authorization: Bearer id.secret`; what was sent is no key, or not any more")
        self.client = key.client
        scope = self.scope()
        if scope != ANY and not key.may(scope):
            raise MissingScope(f"the key {key.id} does not have the scope {scope}", scope=scope)

    def scope(self) -> str:
        """What a key must be for, to have this request looked at."""
        method = self.request.method or ""
        return self.scopes.get(method, ADMIN) if method in self.methods else ANY

    def compute_etag(self) -> str | None:
        return None  # no hash over every answer

    def head(self, *arguments: str) -> Any:
        return self.get(*arguments)

    def answer(self, status: int, body: Any) -> None:
        encoded = msgspec.json.encode(body) + b"\n"
        self.set_status(status)
        self._headers["Content-Type"] = "application/json"
        self.finish(encoded)

    def body(self, kind: type[msgspec.Struct]) -> Any:
        """The request's body. Raises WrongContentType, Malformed, BadArguments."""
        if self.content_type not in JSON_TYPES:
            raise WrongContentType("send application/json")
        self.refuse_compressed()
        return parse(self.request.body, kind)

    def refuse_compressed(self) -> None:
        """Raises WrongContentType."""
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise WrongContentType("send it as it is, not compressed: Content-Encoding is not undone here")

    def query(self, kind: type[T]) -> T:
        """The request's query. Raises BadArguments."""
        return parse_query({name: self.get_query_argument(name) for name in self.request.query_arguments}, kind)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, StormdrainError):
            self.problem(error.status, error.slug, error.title, error.detail, error.members)
        elif isinstance(error, HTTPError) and status_code < 500:
            slug = WrongMethod.slug if status_code == 405 else Malformed.slug
            self.problem(status_code, slug, self._reason, error.log_message or "", {})
        else:
            self.problem(500, StormdrainError.slug, "Internal error", "it is in the log under this instance", {})

    def problem(self, status: int, slug: str, title: str, detail: str, members: dict[str, Any]) -> None:
        self.count(slug)
        self.set_status(status)
        self.set_header("Content-Type", "application/problem+json")
        if status in RETRY_LATER:
            self.set_header("Retry-After", str(self.server.retry_after(slug)))
        if status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        if status == 405:
            self.set_header("Allow", ", ".join(self.methods))
        problem = {"type": f"/problems/{slug}", "title": title, "status": status, "detail": detail}
        self.finish(msgspec.json.encode(problem | {"instance": self.request_id} | members) + b"\n")

    def count(self, slug: str) -> None:
        self.server.metrics.refused(slug)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if isinstance(value, (Refused, HTTPError)):
            log.debug("refused: %s", value)  # a client's mistake is no event of ours
        elif isinstance(value, StoreError):
            log.warning("the backlog: %s", value)
        else:
            super().log_exception(typ, value, tb)
