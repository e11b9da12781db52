"""Kills, stops and terminates processes of one stack at random, and notes each in the ledger."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from random import Random
from typing import NamedTuple, Protocol

from .exits import Unusable
from .ledger import Ledger
from .victim import Victim, born

PAUSE = (0.1, 1.5)  # seconds between two hits
SHORT_STOP = (0.1, 3.0)  # seconds
LONG_STOP = (1.1, 2.0)  # leases
LONG_STOPS = 0.25  # of all stops
SIGNALS = {"KILL": 5, "STOP": 3, "TERM": 2}  # and how often
SPARED = 6.0  # seconds; supervisord gives up on a program that dies four times in a row before it is 5 s old
WATCHED = ("master", "nginx master")  # who supervisord starts


class Target(Protocol):
    """A stack whose processes may be hit."""

    weights: dict[str, float]

    def victims(self) -> list[Victim]: ...

    def strays(self) -> set[int]: ...

    def kill_container(self, container: str) -> None: ...

    def start_container(self, container: str) -> None: ...


class Choice(NamedTuple):
    pause: float  # seconds before it
    role: str
    which: float  # of those that have the role, from 0 to 1
    signal: str
    length: float  # seconds, of a stop


def choices(seed: int, weights: dict[str, float], lease: float) -> Iterator[Choice]:
    """Without end, and the same with every run of a seed: no draw depends on what the stack does."""
    dice = Random(f"killer/{seed}")
    while True:
        pause, which, long = dice.uniform(*PAUSE), dice.random(), dice.random() < LONG_STOPS
        (role,) = dice.choices(list(weights), list(weights.values()))
        (name,) = dice.choices(list(SIGNALS), list(SIGNALS.values()))
        short_length, long_length = dice.uniform(*SHORT_STOP), lease * dice.uniform(*LONG_STOP)
        yield Choice(pause, role, which, name, long_length if long else short_length)


class Killer:
    def __init__(self, target: Target, ledger: Ledger, seed: int, lease: float) -> None:
        self._target, self._ledger = target, ledger
        self._choices = choices(seed, target.weights, lease)
        self._ended = threading.Event()
        self._later: list[tuple[float, Callable[[], None]]] = []  # (when, undo), of all that is stopped or down
        self.seen: set[tuple[int, int]] = set()  # (process id, born) of every process of the stack

    def run(self) -> None:
        try:
            for choice in self._choices:
                self._wait(choice.pause)
                if self._ended.is_set():
                    return
                self._hit(choice)
        finally:
            self._undo(float("inf"))

    def end(self) -> None:
        self._ended.set()

    def _wait(self, pause: float) -> None:
        deadline = time.monotonic() + pause
        while not self._ended.is_set() and (now := time.monotonic()) < deadline:
            self._undo(now)
            self._ended.wait(max(0.0, min([deadline, *(due for due, _ in self._later)]) - now))

    def _undo(self, now: float) -> None:
        """All of them, also where one fails: what is stopped must go on."""
        failures = []
        for due, undo in [item for item in self._later if item[0] <= now]:
            self._later.remove((due, undo))
            try:
                undo()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _hit(self, choice: Choice) -> None:
        victims = self._target.victims()
        self.seen |= {(victim.pid, victim.born) for victim in victims}
        candidates = [victim for victim in victims if victim.role == choice.role and not spared(victim)]
        if not candidates:
            self._ledger.note("nobody", role=choice.role)
            return
        victim = candidates[int(choice.which * len(candidates))]
        if victim.role == "container":
            self._kill_container(victim, choice)
        else:
            self._signal(victim, choice)

    def _signal(self, victim: Victim, choice: Choice) -> None:
        with suppress(ProcessLookupError):  # it has just ended by itself
            handle = os.pidfd_open(victim.pid)
            try:
                if born(victim.pid) != victim.born:
                    return
                at = time.time()
                signal.pidfd_send_signal(handle, signal.Signals[f"SIG{choice.signal}"])
                self._note(at, victim, choice.signal)
                if choice.signal == "STOP":
                    self._continue_later(os.dup(handle), victim, at, choice.length)
            finally:
                os.close(handle)

    def _continue_later(self, handle: int, victim: Victim, at: float, length: float) -> None:
        def undo() -> None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGCONT)
            os.close(handle)
            self._ledger.note("continued", pid=victim.pid, since=at)

        self._later.append((time.monotonic() + length, undo))

    def _kill_container(self, victim: Victim, choice: Choice) -> None:
        at = time.time()
        with suppress(Unusable):
            self._target.kill_container(victim.container)
            # Docker takes its time: until it has returned, the container goes on, and begins jobs.
            self._note(at, victim, "KILL", until=time.time())
        self._later.append(
            (time.monotonic() + choice.length, lambda: self._target.start_container(victim.container)),
        )

    def _note(self, at: float, victim: Victim, name: str, **more: float) -> None:
        self._ledger.note("kill", at=at, pid=victim.pid, role=victim.role, signal=name, workers=victim.workers, **more)


def spared(victim: Victim) -> bool:
    return victim.role in WATCHED and victim.age < SPARED


@contextmanager
def killing(killer: Killer) -> Iterator[Future[None]]:
    """While the block runs; afterwards everything that was stopped goes on, however the block ended."""
    with ThreadPoolExecutor(1, thread_name_prefix="killer") as thread:
        run = thread.submit(killer.run)
        try:
            yield run
        finally:
            killer.end()
    run.result()
