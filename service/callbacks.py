"""Tells a URL of the end of a job: signed as Standard Webhooks say, tried again for a day, never into private networks.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from random import random
from typing import Any
from urllib.parse import urlsplit

import msgspec
from standardwebhooks import Webhook
from tornado.httpclient import HTTPRequest
from tornado.netutil import Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from service.backlog.aio import AsyncBacklog
from service.config import Config
from service.errors import BadArguments, StoreError
from service.job import Callback, stamp

log = logging.getLogger(__name__)

AT_ONCE = 16  # callbacks that one producer has under way
LOOK = 0.5  # seconds between looks for callbacks that are due
STORE_AGAIN = 1.0  # seconds before a busy store is asked again
CONNECT_TIMEOUT, REQUEST_TIMEOUT = 5.0, 15.0  # seconds
ANSWER_MAX = 16 << 20  # bytes of an answer
ERROR_MAX = 200  # characters
# Seconds before the second, third … try: the schedule that the specification recommends, 27 h in all.
WAITS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 36_000.0)
GONE = 410  # the receiver wants no more of it, says the specification

# Addresses that carry another one, which counts: https://www.rfc-editor.org/rfc/rfc6052
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not public either, though some releases of Python take them for it.
INSIDE = [ipaddress.ip_network(network) for network in ("192.0.0.0/24", "fec0::/10", "64:ff9b:1::/48")]


class Forbidden(Exception):
    """A callback would go to an address that is not public."""


def check(url: str, config: Config) -> None:
    """At the door, before anything is stored. Raises BadArguments."""
    if not config.callback_secret:
        raise BadArguments("callbacks are off here: whoever operates this turns them on with CALLBACK_SECRET")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username is not None or not (url.isascii() and url.isprintable()) or " " in url:
        raise BadArguments("callback is an http or https URL with a host, and without a user name")


def is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in INSIDE)


class PublicOnly(Resolver):
    """The addresses of a host, if all of them are public. The connection goes to just these: a name that has
    another address a moment later gains nothing."""

    def initialize(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        # Of its own: a name server that does not answer must hold up nothing else, not even a stop.
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="resolver")

    async def _system(self, host: str, port: int, family: socket.AddressFamily) -> list[tuple[int, Any]]:
        loop = asyncio.get_running_loop()
        ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        return [(kind, address) for kind, _, _, _, address in await loop.run_in_executor(self._threads, ask)]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        found = await self._system(host, port, family)
        if host.lower() not in self._allowed and not all(is_public(address[0]) for _, address in found):
            raise Forbidden(f"{host} has an address that is not public, and is not in CALLBACK_HOSTS")
        return found


class Callbacks:
    def __init__(self, backlog: AsyncBacklog, worker: str, config: Config) -> None:
        self._backlog, self._worker = backlog, worker
        self._webhook = Webhook(config.callback_secret)
        self._resolver = PublicOnly(allowed=config.allowed_hosts)
        self._http = SimpleAsyncHTTPClient(
            force_instance=True,
            max_clients=AT_ONCE,
            max_body_size=ANSWER_MAX,
            resolver=self._resolver,
        )
        self._telling: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """For ever; what is under way when it is cancelled is found again, by another producer or the next start."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(LOOK)
        finally:
            for task in self._telling:
                task.cancel()
            self._http.close()
            self._resolver.close()

    async def _look(self) -> None:
        try:
            free = AT_ONCE - len(self._telling)
            due = await self._backlog.claim_callbacks(free, self._worker) if free else ()
        except StoreError as error:
            log.warning("callbacks: the backlog does not answer: %s", error)
            return await asyncio.sleep(STORE_AGAIN)
        for callback in due:
            task = asyncio.create_task(self._tell(callback))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, callback: Callback) -> None:
        status, error = await self._post(callback)
        again = None if error is None or status == GONE else wait(callback.tries)
        log.info("callback of %s, try %d: %s", callback.job, callback.tries, error or "delivered")
        while True:
            try:
                await self._backlog.settle_callback(callback, self._worker, again, error)
                return
            except StoreError as failure:
                log.warning("callbacks: the backlog does not answer: %s", failure)
                await asyncio.sleep(STORE_AGAIN)

    async def _post(self, callback: Callback) -> tuple[int, str | None]:
        """The status, 0 where there was none, and what went wrong."""
        try:
            request = HTTPRequest(
                callback.url,
                method="POST",
                headers=signed(callback, self._webhook),
                body=body(callback),
                connect_timeout=CONNECT_TIMEOUT,
                request_timeout=REQUEST_TIMEOUT,
                follow_redirects=False,  # to wherever a stranger's server wants
                streaming_callback=lambda chunk: None,  # nobody reads it
            )
            response = await self._http.fetch(request, raise_error=False)
        except Exception as error:  # whatever it is, nobody has been told
            return 0, printable(f"{type(error).__name__}: {error}")
        return response.code, None if 200 <= response.code < 300 else f"HTTP {response.code}"


def body(callback: Callback) -> bytes:
    ended = stamp(callback.finished_at)
    data = {
        "id": callback.job,
        "job": callback.name,
        "state": callback.state,
        "attempt": callback.attempt,
        "finished_at": ended,
        "result": msgspec.Raw(callback.result or b"null"),
        "error": msgspec.Raw(callback.error or b"null"),
    }
    return msgspec.json.encode({"type": f"job.{callback.state}", "timestamp": ended, "data": data})


def signed(callback: Callback, webhook: Webhook) -> dict[str, str]:
    # The same for every try of one end, so that a receiver knows a repetition.
    id, now = f"{callback.job}.{callback.version}", datetime.now(UTC)
    return {
        "Content-Type": "application/json",
        "User-Agent": "Stormdrain",
        "webhook-id": id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": webhook.sign(id, now, body(callback).decode()),
    }


def wait(tries: int, dice: Callable[[], float] = random) -> float | None:
    """Seconds before the next try, a tenth of it jittered; None after the last."""
    return WAITS[tries - 1] * (0.9 + dice() / 5) if tries <= len(WAITS) else None


def printable(text: str) -> str:
    """As a log and a page can show it: a stranger's server has a say in it."""
    return "".join(character if character.isprintable() else "?" for character in text[:ERROR_MAX])
