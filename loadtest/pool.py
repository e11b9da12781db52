"""The client processes: how they start, hand over results, and end."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import TimeoutError as NothingCame
from multiprocessing import get_context, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Semaphore
from typing import TypeVar, cast

from . import client
from .exits import Unusable
from .interrupts import STOPS, uninterrupted
from .settings import Settings

# fork would copy whatever threads and locks this process holds (Pool's threads fork again when a client dies;
# 3.12 warns). spawn imports requests afresh in each: 100 clients took 14 s on 2 cores. forkserver imports it
# once, in a process without threads, and forks that: 0.9 s. It is the default from 3.14 on; said here, it is
# the same from 3.11 on.
START_METHOD = "forkserver"
PRELOAD = ["requests", "loadtest.client"]  # both: the slow one is found even where the package is not

START_LIMIT = 60.0  # seconds until all client processes must be ready: 1000 of them took 18 on 2 cores
LOOK = 0.1  # seconds between looks whether the run is stopped
SLACK = 10.0  # seconds beyond the request's own time-outs before a client counts as dead

A = TypeVar("A")
B = TypeVar("B")


@contextmanager
def client_pool(settings: Settings) -> Iterator[Pool]:
    """CLIENTS processes (no more than N), all ready; none is left when the block ends, however it ends."""
    pool = None
    try:
        with held_back((signal.SIGINT,)), uninterrupted():
            pool, ready = start_pool(settings, min(settings.clients, settings.n))
        for _ in range(min(settings.clients, settings.n)):
            if not ready.acquire(timeout=START_LIMIT):
                raise Unusable(f"The client processes were not ready in {START_LIMIT:.0f} s: take fewer CLIENTS.")
        yield pool
    finally:
        with held_back(STOPS), uninterrupted():
            if pool:
                pool.terminate()
                pool.join()


def start_pool(settings: Settings, clients: int) -> tuple[Pool, Semaphore]:
    context = cast(ForkServerContext, get_context(START_METHOD))
    context.set_forkserver_preload(PRELOAD)
    try:
        ready = context.Semaphore(0)
        return context.Pool(clients, client.start, (settings, ready)), ready
    except OSError as error:
        hint = "They need a writable /tmp and /dev/shm, and room for as many processes."
        raise Unusable(f"The client processes could not start ({error}). {hint}") from None


@contextmanager
def held_back(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Signals wait until the block ends. Processes and threads started in it never see them.

    Ctrl-C goes to every process of the terminal: each client would print its own KeyboardInterrupt. Ignoring
    it in the initializer leaves a gap before that; blocked from birth leaves none. SIGTERM must stay open in
    clients: Pool ends them with it.
    """
    resource_tracker.ensure_running()  # to start it later, inside, would unblock SIGINT again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def arriving(pool: Pool, work: Callable[[A], B], items: Iterable[A], settings: Settings) -> Iterator[B]:
    """Results as they come. Pool forgets what a killed client had in hand: then they end short, not never.

    An interrupt within Pool could leave one of its locks taken, and whoever ends the pool would wait for ever.
    """
    patience = 2 * settings.timeout + SLACK  # one time-out to connect, one to wait
    with uninterrupted():
        results = pool.imap_unordered(work, items)
    last = time.monotonic()
    while time.monotonic() < last + patience:
        with uninterrupted():
            try:
                result = results.next(LOOK)
            except NothingCame:
                continue
            except StopIteration:
                return
        yield result
        last = time.monotonic()
