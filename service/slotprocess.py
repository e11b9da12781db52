"""A fork-server process whose exit code is exact.

multiprocessing reads the code once, from a pipe, and lets several threads do it at the same time: the pool's, and
whoever starts the next process. The one that comes too late gets 255 (4 of 240 crashes), and the history of a job
would name the wrong reason.
"""

from __future__ import annotations

import os
import threading
from multiprocessing import connection, context, popen_forkserver
from typing import Any


class Popen(popen_forkserver.Popen):
    def __init__(self, process: Any) -> None:
        self._reading = threading.Lock()
        super().__init__(process)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, or None while the process lives; waits for it unless `flag` is WNOHANG."""
        if self.returncode is None and not connection.wait([self.sentinel], 0 if flag == os.WNOHANG else None):
            return None
        with self._reading:
            return super().poll(os.WNOHANG)


class SlotProcess(context.ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Popen:
        return Popen(process_obj)


class SlotContext(context.ForkServerContext):
    """For a pool of one worker; `process` is that worker, once it was started."""

    process: SlotProcess

    # multiprocessing's type stubs have a class here; a pool only calls it.
    def Process(self, *args: Any, **kwargs: Any) -> SlotProcess:  # type: ignore[override]
        self.process = SlotProcess(*args, **kwargs)
        return self.process
