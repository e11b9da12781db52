"""The disk below the store: what it must be, and what is kept free on it.

Where the disk is full even a DELETE fails, and so what has run could not be recorded. So new jobs are refused while
there is still room (`low`), and a ballast file can be let go when somebody else has filled the rest (`release`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from service.errors import ConfigError

BALLAST_MAX = 16 << 20  # bytes; a checkpoint and some thousand outcomes

# SQLite's locks and its shared memory do not work across machines: https://sqlite.org/wal.html
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2"}
NETWORK |= {"fuse.sshfs", "fuse.glusterfs", "fuse.cephfs", "fuse.s3fs", "fuse.rclone"}


class Disk:
    def __init__(self, store: Path, reserve: int) -> None:
        """`reserve` is bytes that new jobs leave free."""
        self._folder, self._reserve = store.parent, reserve
        self._ballast = Path(f"{store}.ballast")
        self.restore()

    def free(self) -> int:
        it = os.statvfs(self._folder)
        return it.f_bavail * it.f_frsize

    def low(self) -> bool:
        return self._reserve > 0 and self.free() < self._reserve

    def release(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def restore(self) -> None:
        """Cheap while it is there; made again only where it leaves the reserve free."""
        size = min(self._reserve // 2, BALLAST_MAX)
        if not size or self._ballast.exists() or self.free() < self._reserve + 2 * size:
            return
        unfinished = self._ballast.with_name(f"{self._ballast.name}.{os.getpid()}")
        with suppress(OSError):  # a quota, or another producer was quicker: there are other days
            try:
                with unfinished.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
                os.link(unfinished, self._ballast)
            finally:
                unfinished.unlink(missing_ok=True)


def refuse_network(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Raises ConfigError where the folder is on a file system of another machine."""
    kind = file_system(folder, mounts.read_text())
    if kind in NETWORK:
        raise ConfigError(
            f"BACKLOG is in {folder}, on {kind}: SQLite would lose jobs there; use a disk of this machine"
        )


def file_system(folder: Path, mounts: str) -> str:
    """The type of the file system that holds the folder, as mount(8) calls it."""
    place, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        mounted = before.split()[4].replace("\\040", " ")
        if len(mounted) >= len(place) and Path(mounted) in (folder.resolve(), *folder.resolve().parents):
            place, kind = mounted, after.split()[0]
    return kind
