"""Whatever comes in, a parser takes it or refuses it as it should; nothing else is ever raised, and what is taken means
what another parser says it means."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import Mock

import msgspec
import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UnsetType
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application

from loadtest.answer import member
from service import registry
from service.config import Config
from service.errors import BadArguments, ConfigError, Malformed, StormdrainError
from service.handlers.base import ID, Handler
from service.handlers.body import (
    KEY_MAX,
    Listing,
    Original,
    Submission,
    Waiting,
    fingerprint,
    idempotency_key,
    parse,
    parse_lines,
    parse_query,
    preferred_wait,
)
from service.handlers.events import last_event_id
from service.log import LINE_MAX, plain
from service.registry import job

MANY, SOME = settings(max_examples=1000), settings(max_examples=200)  # a second for the many, also where they are made
BOUND = 1 << 63  # an integer beyond it is refused, or means what another parser says

# What goes wrong between two parsers: signs of JSON, escapes, and bytes that are no UTF-8.
FRAGMENTS = [
    *(b"%c" % sign for sign in b'{}[]",:\\/0-.eE+ \t\r\n\0'),
    *(b"NaN", b"Infinity", b"null", b"true", b"1e999", b"-0", b"01", b"\\u0000", b"\\ud800", b"\\udc00", b"\\u006a"),
    *(b'"job":', b'"args":', b'"job_id":', b'{"job":"a"}', b"//", b"/**/", b"\xef\xbb\xbf", b"\xff", b"\xc0\xaf"),
    *(b"\xed\xa0\x80", "\u2028🌊".encode(), b"9" * 30, b"[" * 50, b"]" * 50, b"'"),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-BOUND, BOUND) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = VALUES | st.fixed_dictionaries({}, optional={"job": VALUES, "args": VALUES, "job_id": VALUES})


@st.composite
def nearly_json(draw: st.DrawFn) -> bytes:
    """JSON with some bytes taken out, and others put in."""
    body = bytearray(json.dumps(draw(DOCUMENTS), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(FRAGMENTS))
    return bytes(body)


# Quick to make: signs in any order, at the top and inside.
SIGNS = st.lists(st.sampled_from(FRAGMENTS), max_size=8).map(b"".join)
INSIDE = SIGNS.map(lambda signs: b'{"job":"a","args":{"x":' + signs + b"}}")
BODIES = SIGNS | INSIDE | SIGNS.map(lambda signs: b'{"job_id":' + signs + b"}") | st.binary(max_size=60)


class NoJson(Exception):
    """What the other parser says of it."""


def strictly(body: bytes) -> Any:
    """As the standard library reads it, without what it adds to JSON. Raises NoJson."""

    def no_constant(text: str) -> Any:
        raise NoJson(text)

    def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise NoJson("a name twice")
        return dict(pairs)

    try:
        value = json.loads(body.decode(), parse_constant=no_constant, object_pairs_hook=each_once)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates
    except (ValueError, RecursionError) as error:
        raise NoJson(str(error)) from None
    return value


def numbers(value: Any) -> Iterator[float]:
    match value:
        case bool():
            return
        case int() | float():
            yield value
        case list():
            for inner in value:
                yield from numbers(inner)
        case dict():
            yield from numbers(list(value.values()))


class Bare(msgspec.Struct, forbid_unknown_fields=True):
    """A submission that asks for nothing more."""

    job: str
    args: dict[str, Any] = {}


def is_submission(value: Any) -> bool:
    members = isinstance(value, dict) and value.keys() <= {"job", "args"} and isinstance(value.get("job"), str)
    return members and isinstance(value.get("args", {}), dict)


def tried(call: Callable[[], Any], *refusals: type[StormdrainError]) -> tuple[Any, StormdrainError | None]:
    """What it returns, or how it refuses; whatever else it raises is a failure."""
    try:
        return call(), None
    except refusals as refused:
        return None, refused


def body_is_refused_or_means_the_same(body: bytes) -> None:
    parsed, refused = tried(lambda: parse(body, Bare), Malformed, BadArguments)
    if refused:
        msgspec.json.encode(refused.detail)  # it can be told to the client
        assert len(refused.detail) < 500
        assert not_taken(body), refused.detail
    else:
        value = strictly(body)
        assert is_submission(value)
        assert msgspec.to_builtins(parsed) == {"args": {}} | value
        encoded = msgspec.json.encode(parsed.args)  # what is stored
        assert json.loads(encoded) == parsed.args
        assert len(fingerprint(Submission(parsed.job, parsed.args))) == 32


def not_taken(body: bytes) -> bool:
    """Whether there is a reason to refuse it: no JSON, no submission, a number that cannot be stored."""
    try:
        value = strictly(body)
    except NoJson:
        return True
    return not is_submission(value) or any(not math.isfinite(n) or abs(n) > BOUND for n in numbers(value))


@SOME
@given(nearly_json())
def test_a_body_is_refused_or_means_what_the_standard_library_says(body: bytes) -> None:
    body_is_refused_or_means_the_same(body)


@MANY
@given(BODIES)
@example(b'{"job":"a","args":{"x":1e999}}')
@example(b'{"job":"a","args":{"x":123456789012345678901234567890}}')
@example(b'{"job":"a","args":{"x":-0.0}}')
def test_signs_in_any_order_are_refused_or_mean_what_the_standard_library_says(body: bytes) -> None:
    body_is_refused_or_means_the_same(body)


LINES = st.sampled_from(
    [
        b'{"job":"a"}',
        b'{"job":"a","args":{"x":1}}',
        b'{"job":"a","job":"a"}',
        b'{"job":"a","args":{"x":[{}',
        b"{}]}}",
        b'{"job":"a"},{"job":"a"}',
        b'{"job":"a"}{"job":"a"}',
        b'{"job":"a","args":{"x:y":"\\u003a"}}',
        b'{"job":"\xff"}',
    ]
)


@MANY
@given(st.lists(LINES | BODIES | nearly_json(), min_size=1, max_size=4))
@example([b'{"job":"a","args":{"x":":"}}', b'{"job":"a"}'])
@example([b'{"job":"a","job":"a","args":{"x":"\\u003a"}}'])
def test_lines_that_are_parsed_together_mean_what_each_means(bodies: list[bytes]) -> None:
    lines = [body.replace(b"\n", b" ") for body in bodies]
    together = parse_lines(lines)
    if together is not None:
        assert together == [parse(line, Submission) for line in lines]


@MANY
@given(BODIES)
def test_an_original_body_is_refused_or_is_a_number_or_a_text(body: bytes) -> None:
    parsed, refused = tried(lambda: parse(body, Original), Malformed, BadArguments)
    if refused:
        return
    assert strictly(body) == {"job_id": parsed.job_id}
    assert isinstance(parsed.job_id, int | str)
    assert not isinstance(parsed.job_id, bool)


@MANY
@given(st.text(max_size=300) | st.text('ab"\\ ,;=\t\x1b', max_size=12) | st.text("k", min_size=250, max_size=260))
def test_an_idempotency_key_is_refused_or_the_same_however_it_is_written(header: str) -> None:
    key, refused = tried(lambda: idempotency_key(header), Malformed)
    if refused:
        return
    assert 1 <= len(key) <= KEY_MAX
    assert key.isascii()
    assert key.isprintable()
    quoted = re.sub(r'(["\\])', r"\\\1", key)
    assert idempotency_key(f' "{quoted}" ') == key


COUNTS = (
    st.integers().map(str)
    | st.text("0123456789+-.e_ \uff11\u0663", max_size=25)
    | st.sampled_from(["0" * 19 + "1" + "9" * 90, "9" * 5000, "1e2", "nan", "inf", "true", "queued", ""])
)


@MANY
@given(st.dictionaries(st.sampled_from(["state", "job", "limit", "cursor", "wait", "x"]), COUNTS, max_size=3))
def test_a_query_is_refused_or_within_its_bounds(query: dict[str, str]) -> None:
    listing, refused = tried(lambda: parse_query(query, Listing), BadArguments)
    assert refused or 1 <= listing.limit <= 1000
    assert refused or isinstance(listing.cursor, UnsetType) or 1 <= listing.cursor <= 1 << 62
    waiting, refused = tried(lambda: parse_query(query, Waiting), BadArguments)
    assert refused or isinstance(waiting.wait, UnsetType) or 1 <= waiting.wait <= 3600


@MANY
@given(
    st.text(max_size=30) | st.tuples(st.sampled_from(["wait=", "a, wait =", ";WAIT="]), COUNTS).map("".join) | COUNTS
)
def test_what_a_header_says_of_waiting_is_a_number_or_ignored(header: str) -> None:
    wait = preferred_wait(header)
    assert wait is None or 0 <= wait < 1_000_000
    assert -1 <= last_event_id(header) < 1 << 63


@pytest.fixture(scope="module")
def functions() -> Iterator[list[registry.Function]]:
    known = dict(registry._functions)
    registry._functions.clear()
    job(many_kinds)
    job(open_ended)
    yield list(registry._functions.values())
    registry._functions.clear()
    registry._functions.update(known)


def many_kinds(
    count: int = 0,
    text: str = "",
    number: float = 0.0,
    flag: bool = False,
    size: Literal["s", "m", 3] = "s",
    numbers: list[int] = [],  # noqa: B006
    by_name: dict[str, float] | None = None,
    pair: tuple[int, str] = (0, ""),
    when: datetime.datetime | None = None,
    raw: bytes = b"",
    anything: Any = None,
) -> list[Any]:
    return [count, text, number, flag, size, numbers, by_name, pair, when, raw, anything]


def open_ended(count: int = 0, **others: Any) -> int:
    return count


NAMES = ["count", "text", "number", "flag", "size", "numbers", "by_name", "pair", "when", "raw", "anything", "x", ""]
ARGUMENTS = VALUES | st.sampled_from(["s", 3, [1, "a"], "2026-11-24T12:00:00Z", "aGk=", {"a": 1}, [1, 2], 2**63, -1.0])


@SOME
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), ARGUMENTS, max_size=4))
def test_arguments_are_refused_or_the_function_can_be_called_with_them(
    functions: list[registry.Function], args: dict[str, Any]
) -> None:
    try:
        args = json.loads(msgspec.json.encode(args))
    except (UnicodeEncodeError, OverflowError):  # parse() refuses those
        return
    for function in functions:
        _, refused = tried(lambda function=function: function.check(args), BadArguments)
        if refused:
            msgspec.json.encode([refused.detail, refused.members])
        else:
            registry.call(function.name, json.loads(msgspec.json.encode(args)), attempt=1)


APPLICATION, CONNECTION = Application([], server=SimpleNamespace(draining=False)), Mock()


@MANY
@given(st.text(max_size=80) | st.from_regex(ID, fullmatch=True) | st.text("a-", min_size=60, max_size=70))
def test_a_request_id_is_the_clients_if_it_is_plain_and_else_a_new_one(given_id: str) -> None:
    headers = HTTPHeaders({"Host": "x", "X-Request-ID": given_id})
    start_line = RequestStartLine("GET", "/", "HTTP/1.1")
    request = HTTPServerRequest(headers=headers, connection=CONNECTION, start_line=start_line)
    handler = Handler(APPLICATION, request)
    plain_one = len(given_id) <= 64 and re.fullmatch("[A-Za-z0-9-]+", given_id)
    assert (handler.request_id == given_id) == bool(plain_one)
    assert re.fullmatch("[A-Za-z0-9-]{1,64}", handler.request_id)
    assert handler._headers["X-Request-ID"] == handler.request_id


def test_nginx_and_the_server_take_the_same_request_ids() -> None:
    configuration = (Path(__file__).parents[2] / "nginx/log.conf").read_text()
    assert f'"~^{ID.pattern}$" $http_x_request_id' in configuration


SETTINGS = [name.upper() for name in Config.__dataclass_fields__]
VALUE = (
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(
        ["1_000", " 5 ", "\u0663", "0x10", "1e400", "9" * 5000, "unix:", "unix:/x", "[::1]:80", "memory:"]
    )
    | st.sampled_from(["sqlite:", "sqlite:x", "info", ":", "::", "a:b:1", "[:1", "127.0.0.1:+80", "1e5", "inf", "nan"])
)


@MANY
@given(st.dictionaries(st.sampled_from(SETTINGS), VALUE, max_size=3))
def test_settings_are_refused_with_a_sentence_or_read_the_same_again(environment: dict[str, str]) -> None:
    config, refused = tried(lambda: Config.from_env(environment), ConfigError)
    if refused:
        assert any(variable in str(refused) for variable in environment)
        return
    written = {name.upper(): str(getattr(config, name)) for name in Config.__dataclass_fields__}
    assert Config.from_env(written) == config


@MANY
@given(BODIES, st.sampled_from([None, "utf-8", "utf-16", "x\0", "no-such", "idna"]))
def test_a_member_of_an_answer_is_a_short_text_that_a_terminal_can_show(body: bytes, encoding: str | None) -> None:
    response = requests.Response()
    response._content, response.encoding = body, encoding
    for name in ("job", "title", ""):
        text = member(response, name)
        assert len(text) <= 80
        assert text.isprintable()


@MANY
@given(st.text(max_size=60) | st.text("\r\n\x1b\x9b\u2028\u202e\0\ud800%s{}", max_size=20))
@example("x" * 100_000)
def test_what_is_logged_stays_on_one_line_that_a_terminal_can_show(message: str) -> None:
    logged = plain(message)
    assert logged.isprintable()
    assert len(logged.splitlines()) <= 1
    assert len(logged) < 11 * LINE_MAX
    if message.isprintable() and len(message) <= LINE_MAX:
        assert logged == message
