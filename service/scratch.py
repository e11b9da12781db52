"""The folder in which multiprocessing keeps the fork server's socket. Its own way of removing it runs at an ordinary
exit only, and producers end with os._exit or are killed: a folder a producer would stay in /tmp for ever."""

from __future__ import annotations

import os
import shutil
import tempfile
from multiprocessing import process
from pathlib import Path

PREFIX = "stormdrain-"


def take() -> None:
    """This process's folder; those of processes that are gone are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}[0-9]*-*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)  # another may be quicker, or it is another user's
    folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
    process.current_process()._config["tempdir"] = folder  # type: ignore[attr-defined]


def drop() -> None:
    folder = process.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
