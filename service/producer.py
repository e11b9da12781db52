"""One forked process: serves HTTP, and owns one consumer with its slots.

What happens, and why in this order:

    1  start the fork server    from the main thread, which lives longest
    2  open the backlog         after the fork: a connection carried across one corrupts the file
    3  take the lease           before the first claim
    4  listen                   last, so that whoever is answered is answered by all of this
    5  tell the master          a child that never gets here cannot boot, and is not restarted for ever
    6  wait for a stop signal   its handler only sets a flag
    7  drain                    finish requests and jobs, give the rest back, leave no process behind
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from service import exits, linux, registry, scratch
from service.backlog import open_backlog
from service.backlog.aio import AsyncBacklog
from service.backlog.base import Backlog, Bounds
from service.callbacks import Callbacks
from service.config import Config
from service.consumer import Consumer
from service.errors import ConfigError, StoreBusy, StoreFull
from service.executor import Executor
from service.front import Front
from service.handlers import Server, front_door
from service.job import new_id
from service.keys import Keys
from service.metrics import Metrics
from service.publisher import Publisher
from service.slots import Limits
from service.watch import Watch

log = logging.getLogger(__name__)

T = TypeVar("T")

HEADER_MAX = 64 * 1024  # bytes; more than nginx takes (nginx/limits.conf), or what is above would be its 502
BUFFER_MIN = 2 << 20  # bytes; headers must fit too, however small BODY_MAX is
# Seconds. Longer than nginx keeps an idle connection (nginx/upstream.conf): if we closed it first, a POST could
# already be under way on it, and fail. Short enough to be rid of who sends headers or bodies drop by drop.
IDLE_TIMEOUT = 10.0
# Seconds nginx needs to let go of idle connections, once we answer with `Connection: close`.
LET_GO = 2.5
QUEUE = 4096  # connections that may wait to be accepted; a unix socket refuses at once what is above that
STORE_AGAIN = 0.5  # seconds before a store that somebody else has locked is asked again
GARBAGE = 50_000  # objects between two collections; with the 700 of old, they took a twentieth of a flood's time
BEAT = 0.5  # seconds
DRAIN_GRACE = 2.0  # seconds beyond the drain time, for the last commits; less than the master's


def main(config: Config, keys: Keys | None, sockets: list[socket.socket], beats: int) -> int:
    """Run one producer to its end; returns the exit code. While it serves it writes into `beats`."""
    linux.give_memory_back()
    registry.load(config.jobs)
    executor = Executor(config.slots, config.slot_idle, Limits(config.jobs, config.slot_memory, config.result_max))
    scratch.take()
    executor.prepare()
    return asyncio.run(Producer(config, keys, executor).run(sockets, beats))


def bounds(config: Config) -> Bounds:
    return Bounds(config.backlog_max, config.disk_reserve, config.keep, config.keep_max)


class Producer:
    def __init__(self, config: Config, keys: Keys | None, executor: Executor) -> None:
        self._config, self._keys, self._executor = config, keys, executor
        self._stop = asyncio.Event()
        self._broken = False

    async def run(self, sockets: list[socket.socket], beats: int) -> int:
        config = self._config
        worker = f"{socket.gethostname()}.{os.getpid()}.{new_id()[-6:]}"
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # blocked since before the fork

        engine = await self._when_free(self._open)
        if engine is None:
            return 0
        backlog = AsyncBacklog(engine, config.commit_timeout, self._break)
        metrics = Metrics(registry.names())
        publisher = Publisher(metrics, backlog)
        consumer = Consumer(backlog, self._executor, worker, config.lease, metrics, self._break)
        if await self._when_free(consumer.start) is None:
            await backlog.close(worker)
            return 0
        server = Server(config, backlog, consumer, Watch(backlog), metrics, publisher, self._keys)
        http = Front(
            front_door(server),
            max_header_size=HEADER_MAX,
            # Above ours, which is refused as too large; what Tornado refuses is only malformed.
            max_body_size=max(2 * config.body_max, BUFFER_MIN),
            max_buffer_size=max(2 * config.body_max, BUFFER_MIN),
            patience=IDLE_TIMEOUT,
        )
        gc.freeze()  # what is here now stays: no collection looks at it again
        gc.set_threshold(GARBAGE)
        for bound in sockets:
            bound.listen(QUEUE)
        http.add_sockets(sockets)
        tell(beats)  # before anybody can see that we serve: one that never told is taken to boot still, and never ended
        beating = asyncio.create_task(beat(beats))
        telling = asyncio.create_task(Callbacks(backlog, worker, config).run()) if config.callback_secret else None
        publishing = asyncio.create_task(publisher.publish_forever())
        log.info("serving as %s", worker)
        await self._stop.wait()

        log.info("draining: up to %g s for what runs", config.drain)
        server.draining = True
        server.watch.close()
        take_what_waits(http, sockets)
        http.stop()
        try:
            async with asyncio.timeout(config.drain + LET_GO + DRAIN_GRACE):
                await asyncio.gather(
                    consumer.stop(config.drain), server.streams.finish(config.drain), asyncio.sleep(LET_GO)
                )
                await http.close_all_connections()
                await ended(telling)
                await publisher.publish()
                await backlog.close(worker)
        except TimeoutError:
            log.error("draining takes too long: ending as it is, the other producers take over what is held here")
        beating.cancel()
        publishing.cancel()
        log.info("stopped")
        if backlog.corrupt:
            log.error("the backlog's file is damaged: nothing is accepted any more, and the file is left as it is")
            return exits.CORRUPT
        return exits.BROKEN if self._broken else 0

    async def _open(self) -> Backlog:
        return open_backlog(self._config.backlog, bounds(self._config))

    async def _when_free(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Ask again for as long as somebody else has the store locked: to end for that would end the whole server.
        None when we are to stop meanwhile."""
        while not self._stop.is_set():
            try:
                return await ask()
            except (StoreBusy, StoreFull) as error:
                log.warning("start: the backlog does not answer: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), STORE_AGAIN)
        return None

    def _break(self) -> None:
        """After an I/O error the state of the last commit is unknown: end this process; the next one reads
        what is really on disk."""
        self._broken = True
        self._stop.set()


async def ended(task: asyncio.Task[None] | None) -> None:
    if task:
        task.cancel()
        await asyncio.wait((task,))


async def beat(fd: int) -> None:
    """Tell the master that we serve. One that hangs while it has the store's lock would stop all others."""
    while True:
        await asyncio.sleep(BEAT)
        tell(fd)


def tell(fd: int) -> None:
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):  # it has not looked for a while
        os.write(fd, b"!")


def take_what_waits(http: HTTPServer, sockets: list[socket.socket]) -> None:
    """Accept the connections that are queued: closing the socket would reset them, with a request already sent."""
    for listening in sockets:
        with contextlib.suppress(OSError):  # nobody waits any more; or no file is free, and draining goes on
            while True:
                connection, address = listening.accept()
                connection.setblocking(False)
                http.handle_stream(IOStream(connection, max_buffer_size=http.max_buffer_size), address)


def exit_now(code: int) -> None:
    """Threads that were left to themselves would hold an ordinary exit for ever."""
    scratch.drop()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


def boot(config: Config, keys: Keys | None, sockets: list[socket.socket], beats: int) -> None:
    """What the forked child does. Never returns."""
    try:
        exit_now(main(config, keys, sockets, beats))
    except ConfigError as error:
        log.error("%s", error, exc_info=error.__cause__ if error.traceback else None)
        exit_now(exits.CONFIG)
    except BaseException:
        log.exception("the producer failed")
    exit_now(exits.BROKEN)
