"""Functions that behave as badly as a job can. The fork server of the tests imports this module as JOBS."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from service.registry import attempt, job


@job
def echo(value: Any = None) -> Any:
    return value


@job
def own_pid() -> int:
    return os.getpid()


@job
def parent_pid() -> int:
    return os.getppid()


@job
def number_of_attempt() -> int:
    return attempt()


@job
def raises(message: str) -> NoReturn:
    raise ValueError(message)


@job
def says_exit(code: int) -> NoReturn:
    sys.exit(code)


@job
def interrupts() -> NoReturn:
    raise KeyboardInterrupt


@job
def exits(code: int) -> NoReturn:
    os._exit(code)


@job
def kills_itself(signum: int) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(60)


@job
def segfaults() -> None:
    ctypes.string_at(0)


class TwoPart(Exception):
    """Does not unpickle: pickle calls it with one argument."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")
        self.lock = threading.Lock()  # and this does not even pickle


@job
def raises_unpicklable() -> NoReturn:
    raise TwoPart("one", "two")


class NoMessage(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


@job
def raises_without_message() -> NoReturn:
    raise NoMessage


class MessageThatExits(Exception):
    def __str__(self) -> str:
        sys.exit(1)


@job
def raises_message_that_exits() -> NoReturn:
    raise MessageThatExits


@job
def raises_lone_surrogate() -> NoReturn:
    raise ValueError("\ud800")


@job
def raises_deep_group() -> NoReturn:
    error: Exception = ValueError("innermost")
    for _ in range(5_000):
        error = ExceptionGroup("outer", [error])
    raise error


@job
def raises_long(characters: int) -> NoReturn:
    raise ValueError("x" * characters)


@job
def returns(what: str) -> Any:
    return {
        "object": object(),
        "nan": float("nan"),
        "bytes": b"1",
        "surrogate": "\ud800",
        "set": {1},
        "large": "x" * 100_000,
        "deep": nested(100_000),
    }[what]


def nested(depth: int) -> list[Any]:
    outer: list[Any] = []
    for _ in range(depth):
        outer = [outer]
    return outer


@job
def sleeps(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@job
def waits_for(path: str, begun: str | None = None) -> str:
    """Until the file is there."""
    if begun:
        Path(begun).touch()
    while not Path(path).exists():
        time.sleep(0.005)
    return "seen"


@job
def ignores_sigterm(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


@job
def starts_grandchild(path: str, own_session: bool = False) -> None:
    """Writes the process ids of itself and of what it started, then works for a minute."""
    grandchild = subprocess.Popen(["sleep", "60"], start_new_session=own_session)
    unfinished = Path(f"{path}.unfinished")
    unfinished.write_text(f"{os.getpid()} {grandchild.pid}")
    unfinished.rename(path)
    time.sleep(60)


@job
def leaves_grandchild_and_crashes(path: str) -> None:
    Path(path).write_text(str(subprocess.Popen(["sleep", "60"]).pid))
    os._exit(7)


@job
def holds_the_interpreter() -> None:
    """One C call that never lets go of the GIL, long beyond every limit here."""
    sum(range(10**11))


@job(kind="thread")
def thread_name() -> str:
    return threading.current_thread().name


@job(kind="thread")
def thread_waits_for(path: str) -> str:
    return waits_for(path)


@job(kind="thread")
def thread_pid() -> int:
    return os.getpid()


@job(kind="thread")
def thread_exits() -> NoReturn:
    sys.exit(3)


@job
def prints(lines: int, text: str = "line") -> None:
    for number in range(lines):
        print(text, number)


@job
def prints_and_exits(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    os._exit(3)


@job
def prints_below_python(megabytes: int) -> None:
    """And so does a process that it starts."""
    subprocess.run(["head", "-c", str(megabytes << 20), "/dev/zero"], check=True)
    os.write(1, b"the end")


@job
def closes_its_output() -> None:
    sys.stdout.close()
    sys.stderr = None  # type: ignore[assignment]
    os.close(1)
    os.close(2)


@job
def leaves_a_printer() -> int:
    """A process that goes on printing when the job has ended."""
    return subprocess.Popen(["yes", "not the next job's"]).pid


@job
def allocates(megabytes: int) -> int:
    return len(bytearray(megabytes << 20))


@job
def forks_and_comes_back() -> str:
    """The child returns, or would: it raises where its exec fails."""
    if os.fork() == 0:
        sys.exit(1)
    os.wait()
    return "parent"


@job
def closes_everything_and_sleeps() -> None:
    os.closerange(3, 256)
    time.sleep(60)
