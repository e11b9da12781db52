"""What runs inside a slot's process, around your function.

Only strings, bytes and numbers cross to the producer and back: an exception that cannot be unpickled there
would break the slot, and a SystemExit would end the producer.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TextIO

from service import linux, registry, replies
from service.job import Raised, Succeeded
from service.replies import Reply

TRACEBACK_MAX = 16_000  # characters; the end of it says what happened
NAME_MAX = 200  # characters
MESSAGE_MAX = 4_000  # characters


class Slot(NamedTuple):
    """The slot's process's ends of its pipes."""

    replies: Connection
    recalled: Connection
    output: int
    mark: bytes


_slot: Slot


def initialise(
    jobs: str, memory: int, output: Connection, mark: bytes, replies: Connection, recalled: Connection
) -> None:
    """Once per slot, before its first job. `memory` is bytes, 0 for no limit."""
    global _slot
    _slot = Slot(replies, recalled, os.dup(output.fileno()), mark)
    sys.stdout, sys.stderr = (_redirect(standard, output) for standard in (1, 2))
    output.close()
    faulthandler.enable()  # a segmentation fault says where
    linux.first_to_go()
    linux.yield_to_others()  # and signals to the group of the producer no longer arrive
    linux.adopt_orphans()  # so that whatever a job starts stays below its slot, and ends with it
    # Handlers, not SIG_IGN: whatever the job starts would inherit that, and could not be stopped.
    signal.signal(signal.SIGTERM, _ignore)
    signal.signal(signal.SIGINT, _ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # blocked in the fork server
    linux.die_with_parent()
    threading.Thread(target=_die_with_producer, name="watchdog", daemon=True).start()
    threading.Thread(target=linux.low_share, name="low-share", daemon=True).start()
    if memory:
        linux.limit_memory(memory)
    registry.load(jobs)


def family() -> tuple[int, int]:
    """The process ids of this slot and of its fork server."""
    return os.getpid(), os.getppid()


def _redirect(standard: int, output: Connection) -> TextIO:
    # A new object, by the line: what an inherited one still holds is not ours, and a crash loses what is buffered.
    os.dup2(output.fileno(), standard)
    return open(standard, "w", buffering=1, errors="backslashreplace", closefd=False)


def _ignore(signum: int, frame: Any) -> None:
    """The producer decides when a slot ends, and then it is killed."""


def _die_with_producer() -> None:
    # The fork server dies with the producer, and we with it; this also takes along what the job started.
    producer = parent_process()
    if producer is not None:
        producer.join()
    linux.kill_tree(os.getpid())


def run_all(course: int, jobs: Sequence[tuple[str, bytes, int]], result_max: int) -> int:
    """Run jobs (name, arguments, attempt) one after the other, and reply after each. How many have run: not all, where
    the rest was recalled."""
    process = os.getpid()
    for place, (name, args, attempt) in enumerate(jobs):
        if place and _recalled(course):
            return place
        reply = run(name, args, attempt, result_max)
        if os.getpid() != process:
            os._exit(0)  # a child that the job has forked, and that came back from it: it is not to answer for us
        reply.course, reply.place = course, place
        with suppress(OSError):  # whatever the job has closed
            os.write(_slot.output, _slot.mark)
        _slot.replies.send_bytes(replies.encode(reply))
    return len(jobs)


def _recalled(course: int) -> bool:
    """A word that came too late for the course before is still there."""
    while _slot.recalled.poll():
        if _slot.recalled.recv_bytes() == b"%d" % course:
            return True
    return False


def run(name: str, args: bytes, attempt: int, result_max: int) -> Reply:
    result, error = None, None
    began, used = time.monotonic(), time.process_time()
    try:
        result = encode(registry.call(name, json.loads(args), attempt), result_max)
    except BaseException as raised:  # SystemExit and KeyboardInterrupt too: a job can only hurt itself
        error = describe(raised)
    with suppress(Exception):  # whatever the job has put in their place
        sys.stdout.flush()
        sys.stderr.flush()
    max_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Reply(0, 0, result, error, time.monotonic() - began, time.process_time() - used, max_rss)


def encode(result: Any, result_max: int) -> bytes:
    """Raises TypeError or ValueError, which fail the attempt, for what is not JSON or too large."""
    encoded = json.dumps(result, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    if len(encoded) > result_max:
        raise ValueError(f"the result is {len(encoded)} bytes of JSON, above RESULT_MAX={result_max}")
    return encoded


def describe(error: BaseException) -> tuple[str, str, str]:
    try:
        message = str(error)
    except BaseException as second:  # a __str__ of the user's that raises
        message = f"<its message could not be made: {type(second).__name__}>"
    if isinstance(error, MemoryError) and not message:
        message = "no more memory: see SLOT_MEMORY"
    ours = error.__traceback__.tb_next if error.__traceback__ else None
    lines = "".join(traceback.format_exception(type(error), error, ours.tb_next if ours else None))
    return _clean(type(error).__name__[:NAME_MAX]), _clean(message[:MESSAGE_MAX]), _clean(lines[-TRACEBACK_MAX:])


def _clean(text: str) -> str:
    # A lone surrogate cannot be written as UTF-8.
    return text.encode("utf-8", "replace").decode()


def outcome(reply: Reply) -> Succeeded | Raised:
    """The reply, as the producer sees it."""
    if reply.error is None:
        return Succeeded(reply.result or b"null", reply.cpu_seconds, reply.max_rss, seconds=reply.seconds)
    return Raised(*reply.error, reply.cpu_seconds, reply.max_rss, seconds=reply.seconds)
