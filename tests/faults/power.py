"""A disk that keeps only what was flushed, under the real SQLite engine.

Every write goes to the file at once, so that SQLite reads what it wrote, and is also kept in a list until its file
is flushed. When the power is cut, each write in the list is kept, dropped, or torn at sectors of 512 bytes, as the
dice say: a disk writes in any order what nobody has asked it to flush.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import apsw

from service.backlog.sqlite import SqliteBacklog

SECTOR = 512  # bytes that a disk writes whole or not at all


@dataclass
class Platter:
    """One file as the disk has it. Its name is there, or its removal is, once the folder was flushed."""

    flushed: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # offset and data, or None: cut off there
    named: bool = False
    deleted: bool = False  # and the folder not flushed since

    def flush(self) -> None:
        for offset, data in self.pending:
            apply(self.flushed, offset, data)
        self.pending.clear()

    def after_a_cut(self, dice: Random) -> bytes | None:
        if (not self.named or self.deleted) and dice.random() < 0.5:
            return None
        image, style = bytearray(self.flushed), dice.choice(["all", "none", "some", "torn"])
        for offset, data in self.pending:
            if style == "torn" and data is not None:
                for start in range(0, len(data), SECTOR):
                    if dice.random() < 0.5:
                        apply(image, offset + start, data[start : start + SECTOR])
            elif style == "all" or (style != "none" and dice.random() < 0.5):
                apply(image, offset, data)
        return bytes(image)


def apply(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del image[offset:]
        return
    image.extend(bytes(max(0, offset - len(image))))
    image[offset : offset + len(data)] = data


class Disk(apsw.VFS):
    """The VFS. `before(what)` is asked before each write, cut, flush and removal, and may raise."""

    def __init__(self, name: str, before: Callable[[str], None]) -> None:
        self.name, self.before = name, before
        self.platters: dict[str, Platter] = {}
        super().__init__(name, base="unix")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        platter = self.platters.get(path)
        if platter is None or platter.deleted:
            platter = self.platters[path] = Platter()
        return File(self, platter, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.before("delete")
        super().xDelete(filename, False)
        if filename in self.platters:
            self.platters[filename].deleted = True
        if syncdir:
            self.flush_folder()

    def flush_folder(self) -> None:
        self.platters = {path: platter for path, platter in self.platters.items() if not platter.deleted}
        for platter in self.platters.values():
            platter.named = True

    def after_a_cut(self, dice: Random) -> dict[str, bytes]:
        """The files, by name, as they are found when the power is back."""
        images = {Path(path).name: platter.after_a_cut(dice) for path, platter in self.platters.items()}
        return {name: image for name, image in images.items() if image is not None}


class File(apsw.VFSFile):
    def __init__(self, disk: Disk, platter: Platter, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk, self._platter = disk, platter
        # As in SQLite's own: with the first flush of a new log, its folder is flushed too.
        self._flushes_folder = bool(flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.before("write")
        super().xWrite(data, offset)
        self._platter.pending.append((offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        self._disk.before("truncate")
        super().xTruncate(newsize)
        self._platter.pending.append((newsize, None))

    def xSync(self, flags: int) -> None:
        self._disk.before("flush")
        self._platter.flush()  # and not the real one: 200 cuts shall take seconds
        if self._flushes_folder:
            self._disk.flush_folder()
            self._flushes_folder = False


class OneConnection(SqliteBacklog):
    """A Python VFS has no shared memory, and SQLite does without where one connection has the file for itself."""

    def _connect(self, file: Path) -> apsw.Connection:
        return self.__dict__.get("_db") or super()._connect(file)


@contextmanager
def default_disk(disk: Disk, checkpoint: int) -> Iterator[None]:
    """Whoever opens a database gets it on this disk. `checkpoint` is pages in the log before one."""

    def exclusive(db: apsw.Connection) -> None:
        db.pragma("locking_mode", "exclusive")
        db.pragma("wal_autocheckpoint", checkpoint)

    apsw.set_default_vfs(disk.name)
    apsw.connection_hooks.append(exclusive)
    try:
        yield
    finally:
        apsw.connection_hooks.remove(exclusive)
        apsw.set_default_vfs("unix")
