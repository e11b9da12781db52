"""Ctrl-C and SIGTERM, while something is done that must not be left half done."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """They take effect when the block ends, as KeyboardInterrupt. Only for the main thread."""
    came: list[int] = []
    before = {stop: signal.signal(stop, lambda number, frame: came.append(number)) for stop in STOPS}
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
    if came:
        raise KeyboardInterrupt
