"""Receipts, until they can be sent.

nginx passes on no more of a body once its answer has begun, and many clients read no answer before they have sent
all: so an answer of any length is kept until the body is over. In memory at first, then in a file without a name.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from service.errors import StoreFull

IN_MEMORY = 128 << 10  # bytes; the receipts of about 2,700 jobs
PIECE = 64 << 10  # bytes that are read at once


class Receipts:
    """Its files are written in threads: a disk may hang, and the event loop must not."""

    def __init__(self, folder: Path | None, reserve: int) -> None:
        """Kept in `folder` (None: the system's), where it leaves `reserve` bytes free."""
        self._folder, self._reserve = folder or Path(tempfile.gettempdir()), reserve
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(self._folder))  # noqa: SIM115 `close` is its end
        self.size = 0
        self.low = False  # True: no more, the rest of the disk is for what has run

    async def add(self, receipts: bytes) -> None:
        """Raises StoreFull: these are lost, and so is their order."""
        self.size += len(receipts)
        await asyncio.to_thread(self._write, receipts)

    def _write(self, receipts: bytes) -> None:
        try:
            self._file.write(receipts)
            disk = os.statvfs(self._folder)
        except OSError as error:
            raise StoreFull(f"a receipt cannot be kept: {error}") from error
        self.low = self.size > IN_MEMORY and disk.f_bavail * disk.f_frsize < self._reserve

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of them, from the first."""
        await asyncio.to_thread(self._file.seek, 0)
        while piece := await asyncio.to_thread(self._file.read, PIECE):
            yield piece

    def close(self) -> None:
        self._file.close()
