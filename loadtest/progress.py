"""How far it is: a bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from typing import Self

from tqdm import tqdm

LOG_EVERY = 5.0  # seconds: a bar's carriage returns would fill a container's log


class Progress:
    """`with Progress("requests", 1000) as bar: bar.advance()`; writes to standard error."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.said = time.monotonic()
        plain = not sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=what, file=sys.stderr, dynamic_ncols=True, disable=plain)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, count: int = 1) -> None:
        """Call it with 0 too while nothing happens: the log then says that we are still waiting."""
        self.done += count
        self.bar.update(count)
        if self.bar.disable and time.monotonic() - self.said >= LOG_EVERY:
            self.said = time.monotonic()
            print(f"{self.what}: {self.done} of {self.total}", file=sys.stderr, flush=True)
