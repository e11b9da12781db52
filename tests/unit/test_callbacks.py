"""Where callbacks may go, how they are signed, and when they are tried again."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from msgspec.structs import replace
from standardwebhooks import Webhook

from service.callbacks import WAITS, Forbidden, PublicOnly, body, check, is_public, printable, signed, wait
from service.config import Config
from service.errors import BadArguments, ConfigError
from service.job import Callback, State

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CALLBACK = Callback(
    1, "job-1", 4, "http://a.example/", 1, "noop", State.FAILED, 3, 1_700_000_000.5, None, b'{"type": "E"}'
)
ON = Config(callback_secret=SECRET)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_may_be_told(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.8",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:a00:1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2002:a00:1::1",
    ],
)
def test_no_other_address_may(address: str) -> None:
    assert not is_public(address)


def resolved(found: list[str], host: str, allowed: str = "") -> list[tuple[int, Any]]:
    async def resolve() -> list[tuple[int, Any]]:
        resolver = PublicOnly(allowed=Config(callback_hosts=allowed).allowed_hosts)

        async def names(host: str, port: int, family: int) -> list[tuple[int, Any]]:
            return [(socket.AF_INET, (address, port)) for address in found]

        resolver._system = names
        return await resolver.resolve(host, 80)

    return asyncio.run(resolve())


def test_a_name_with_one_private_address_among_its_public_ones_is_refused() -> None:
    assert len(resolved(["8.8.8.8", "8.8.4.4"], "a.example")) == 2
    with pytest.raises(Forbidden, match=r"a\.example"):
        resolved(["8.8.8.8", "10.0.0.1"], "a.example")


def test_a_host_that_the_operator_lists_may_have_any_address() -> None:
    assert resolved(["10.0.0.1"], "Inside.Example", allowed=" inside.example , other")
    with pytest.raises(Forbidden):
        resolved(["10.0.0.1"], "outside.example", allowed="inside.example")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example/",
        "ftp://a.example/",
        "file:///etc/passwd",
        "http:///path",
        "http://user:secret@a.example/",
        "http://a.example:0/",
        "http://a.example:99999/",
        "http://a.example/ x",
        "http://a.example/\r\nX: y",
        "http://ä.example/",
        "http://[::1/",
        "javascript:alert(1)",
    ],
)
def test_what_is_no_address_of_a_web_server_is_refused_at_the_door(url: str) -> None:
    with pytest.raises(BadArguments):
        check(url, ON)


def test_without_a_secret_there_are_no_callbacks() -> None:
    check("https://a.example/hook?x=1", ON)
    with pytest.raises(BadArguments, match="CALLBACK_SECRET"):
        check("https://a.example/hook", Config())


@pytest.mark.parametrize("secret", ["hush", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", SECRET.removeprefix("whsec_")])
def test_a_secret_that_is_none_ends_the_start_and_is_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigError, match="CALLBACK_SECRET") as told:
        Config(callback_secret=secret)
    assert secret == "whsec_" or secret not in str(told.value)


def test_a_receiver_can_verify_what_it_gets_and_know_a_repetition() -> None:
    headers = signed(CALLBACK, Webhook(SECRET))
    told = Webhook(SECRET).verify(body(CALLBACK), headers)
    ended = "2023-11-14T22:13:20.500Z"
    of_job = {"id": "job-1", "job": "noop", "state": "failed", "attempt": 3, "finished_at": ended}
    data = of_job | {"result": None, "error": {"type": "E"}}
    assert told == {"type": "job.failed", "timestamp": ended, "data": data}
    assert headers["webhook-id"] == "job-1.4"


def test_a_result_is_told_that_is_deeper_than_python_reads() -> None:
    result = b"[" * 100_000 + b"]" * 100_000
    deep = replace(CALLBACK, state=State.SUCCEEDED, result=result)
    assert b'"result":%b,' % result in body(deep)
    assert signed(deep, Webhook(SECRET))


def test_tries_go_on_for_more_than_a_day_and_then_end() -> None:
    waits = [wait(tries, lambda: 0.5) for tries in range(1, len(WAITS) + 2)]
    assert waits == [*WAITS, None]
    assert sum(WAITS) > 86_400


def test_what_a_strangers_server_says_cannot_forge_a_line() -> None:
    assert printable("a\nb\x1b[31m\u202e" + "x" * 500) == "a?b?[31m?" + "x" * 191
