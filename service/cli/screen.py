"""Where output goes: what was asked for to the standard output, the rest to standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from service.cli.show import inert

QUIET = 5.0  # seconds between two lines about new attempts


class Screen:
    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._bar: tqdm[Any] | None = None
        for stream in (sys.stdout, sys.stderr):  # ids and states are worth more than a letter it does not have
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]

    def show(self, document: Any, *lines: str) -> None:
        """As JSON or as these lines; at once, also into a pipe."""
        for line in [json.dumps(document, separators=(",", ":"))] if self._json else lines:
            self.write(line, sys.stdout)

    def complain(self, sentence: str) -> None:
        self.write(f"stormdrain: {sentence}", sys.stderr)

    def write(self, line: str, stream: Any) -> None:
        if self._bar is not None and stream.isatty():
            with self._bar.external_write_mode(file=stream):
                print(line, file=stream, flush=True)
        else:
            print(line, file=stream, flush=True)

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Callable[[], Any]]:
        """For many, on a terminal. Yields what moves it on."""
        off = True if total == 1 else None  # None: where standard error is no terminal
        with tqdm(total=total, desc=what, unit=" jobs", disable=off, dynamic_ncols=True) as bar:
            self._bar = bar
            try:
                yield bar.update
            finally:
                self._bar = None


class Trouble(logging.Handler):
    """What the client logs: that it tries again. Now and then, since many threads may do so at once."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.INFO)
        self._screen, self._said = screen, -QUIET

    def emit(self, record: logging.LogRecord) -> None:
        if (now := time.monotonic()) - self._said >= QUIET:
            self._said = now
            self._screen.complain(inert(record.getMessage()))
