"""Binds the port, forks the producers, keeps them alive, passes on the stop signal, ends when they have ended.

This is what tornado.process.fork_processes does for start(0), with what it leaves out: its parent forwards no
signal (its children go on serving as orphans), restarts a crashing child at once and a hundred times, and then
leaves the others behind. Nothing here may touch an event loop, a thread, a database or multiprocessing:
the children would share it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service import exits, linux, producer
from service.config import Config, parse_listen
from service.errors import ConfigError
from service.keys import open_keys

log = logging.getLogger(__name__)

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
BOOT_FAILURES = 5  # in a row, before we give up; whoever runs us sees it, rather than a loop
BACKOFF = 0.1  # seconds before a child that died young is forked again; doubled each time
BACKOFF_MAX = 5.0
YOUNG = 10.0  # seconds; a child that lived longer starts over without backoff
GRACE = 5.0  # seconds beyond the drain time, before a child is killed
LOOK = 0.5  # seconds between looks for orphans; what a job started must be gone 1 s after its limit
PAUSED = 5.0  # seconds between two looks: then we were stopped ourselves, perhaps with all producers


@dataclass(slots=True)
class Child:
    number: int
    beats: int  # a pipe, into which it writes while it serves
    started: float
    beat: float = 0.0  # when it did last; never yet while it boots


class Master:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._children: dict[int, Child] = {}  # by process id
        self._due: dict[int, float] = {}  # its number → when it is forked again
        self._failures = 0  # boots in a row that failed
        self._deaths: dict[int, int] = {}  # its number → young deaths in a row
        self._stopping_since: float | None = None
        self._exit_code = 0
        self._looked = time.monotonic()

    def run(self) -> int:
        """Serve until a stop signal, or until a producer cannot boot; returns the exit code."""
        assert threading.active_count() == 1, "a thread before the fork is half a thread in the child"
        assert asyncio._get_running_loop() is None, "an event loop before the fork would be shared by all children"
        # Read here, and kept up to date: a producer that is forked while the file is damaged has the keys of before.
        self._keys = open_keys(self._config.api_keys_file)
        self._sockets = bind(self._config.listen)
        # Blocked before the fork, so that a signal in between is kept for whoever it is for, not lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS | {signal.SIGCHLD})
        linux.adopt_orphans()
        linux.raise_file_limit()
        count = self._config.producers or linux.cores()
        log.info("listening on %s with %d producers", self._config.listen, count)
        for number in range(count):
            self._fork(number)
        while self._children or self._due:
            self._turn()
        self._end_orphans()
        log.info("all producers have ended")
        return self._exit_code

    def _turn(self) -> None:
        info = signal.sigtimedwait(STOP_SIGNALS | {signal.SIGCHLD}, self._patience())
        if info and info.si_signo in STOP_SIGNALS:
            self._stop(0)
        self._reap()
        self._end_orphans()
        self._end_hanging()
        if self._keys:
            self._keys.refresh()
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._fork(number)
        if self._stopping_since and now > self._stopping_since + self._config.drain + GRACE:
            log.error("killing producers that did not stop in time")
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)

    def _patience(self) -> float:
        """Seconds until there is something to do without a signal."""
        now = time.monotonic()
        return max(0.01, min([due - now for due in self._due.values()] + [LOOK]))

    def _fork(self, number: int) -> None:
        ours, theirs = os.pipe()
        master = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            linux.die_with_parent(signal.SIGTERM, master)  # which drains: a killed master leaves nobody serving
            producer.boot(self._config, self._keys, self._sockets, theirs)
        os.close(theirs)
        os.set_blocking(ours, False)
        self._children[pid] = Child(number, ours, time.monotonic())

    def _stop(self, exit_code: int) -> None:
        self._due.clear()
        # Ours too, or connections would queue here while the children drain, and be reset in the end.
        for listening in self._sockets:
            listening.close()
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            self._exit_code = exit_code
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                self._buried(pid, self._children.pop(pid), os.waitstatus_to_exitcode(status))

    def _buried(self, pid: int, child: Child, exitcode: int) -> None:
        booted = bool(child.beat) or heard(child)
        os.close(child.beats)
        if self._stopping_since is not None:
            return
        log.error("producer %d (process %d) ended with %d", child.number, pid, exitcode)
        self._failures = 0 if booted else self._failures + 1
        if exitcode in (exits.CONFIG, exits.CORRUPT):
            self._stop(exitcode)
            return
        if self._failures >= BOOT_FAILURES:
            log.error("a producer cannot boot: giving up")
            self._stop(exits.BOOT)
            return
        young = time.monotonic() - child.started < YOUNG
        deaths = self._deaths[child.number] = self._deaths.get(child.number, 0) + 1 if young else 0
        pause = min(BACKOFF * 2 ** (deaths - 1), BACKOFF_MAX) if deaths else 0.0
        self._due[child.number] = time.monotonic() + pause

    def _end_hanging(self) -> None:
        """A producer that is stopped, or stuck, for twice its lease. It may have the store's lock, which only its
        end releases, and then nobody could write."""
        now, last = time.monotonic(), self._looked
        self._looked = now
        for pid, child in self._children.items():
            if heard(child) or (child.beat and now - last > PAUSED):
                child.beat = now
            elif child.beat and now - child.beat > 2 * self._config.lease:
                log.error("producer %d (process %d) hangs: killing it", child.number, pid)
                os.kill(pid, signal.SIGKILL)

    def _end_orphans(self) -> None:
        """Slots adopt what their jobs leave behind. Whatever comes to us has lost its slot, and is ended."""
        for pid in linux.children(os.getpid()):
            if pid not in self._children and not is_tracker(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def is_tracker(pid: int) -> bool:
    """multiprocessing's resource tracker removes what its killed producer has left in /dev/shm, and then ends."""
    with contextlib.suppress(OSError):
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def heard(child: Child) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(os.read(child.beats, 65536))
    return False


def bind(listen: str) -> list[socket.socket]:
    """Bound, but not listening: the first producer that can serve does that. Until then a connection is refused at
    once, and nginx takes the request elsewhere. Raises ConfigError when the address cannot be had."""
    host, port = parse_listen(listen)
    try:
        if port == 0:
            return [bound(socket.AF_UNIX, host)]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [bound(family, address) for family, _, _, _, address in found]
    except OSError as error:
        raise ConfigError(f"LISTEN is {listen}, which cannot be bound: {error.strerror}") from error


def bound(family: int, address: Any) -> socket.socket:
    it = socket.socket(family, socket.SOCK_STREAM)
    it.setblocking(False)
    if family == socket.AF_UNIX:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(Path(address).stat().st_mode):  # of a server that was killed
                Path(address).unlink()
        it.bind(address)
        Path(address).chmod(0o660)
        return it
    it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        it.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    it.bind(address)
    return it
