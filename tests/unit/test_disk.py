"""What the store's disk must be, and what is kept free on it."""

import errno
import os
from pathlib import Path

import pytest

from service.backlog import disk
from service.errors import ConfigError

MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
30 21 0:40 / /mnt/share\\040one rw - nfs4 server:/x rw
31 30 0:41 / /mnt/share\\040one/local rw - xfs /dev/sdb1 rw
32 21 0:42 / /mnt/ssh rw - fuse.sshfs host: rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/data", "ext4"),
        ("/mnt/share one/a/b", "nfs4"),
        ("/mnt/share one/local/a", "xfs"),
        ("/mnt/share one/localer", "nfs4"),
        ("/mnt/ssh", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(folder: str, kind: str) -> None:
    assert disk.file_system(Path(folder), MOUNTS) == kind


def test_a_file_system_of_another_machine_is_refused_with_a_sentence(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n22 21 0:4 / {tmp_path} rw - nfs4 server:/x rw\n")
    with pytest.raises(ConfigError, match="on nfs4: SQLite would lose jobs there"):
        disk.refuse_network(tmp_path / "data", mounts)


def test_this_machine_s_own_disk_is_taken(tmp_path: Path) -> None:
    disk.refuse_network(tmp_path)


def test_the_reserve_is_low_when_less_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = disk.Disk(tmp_path / "backlog.db", 1 << 20)
    monkeypatch.setattr(it, "free", lambda: 1 << 20)
    assert not it.low()
    monkeypatch.setattr(it, "free", lambda: (1 << 20) - 1)
    assert it.low()


def test_the_ballast_takes_its_bytes_and_gives_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = disk.Disk(tmp_path / "backlog.db", 1 << 20)
    ballast = tmp_path / "backlog.db.ballast"
    assert ballast.stat().st_blocks * 512 >= 1 << 19
    it.release()
    it.release()
    assert not ballast.exists()
    monkeypatch.setattr(it, "free", lambda: 1 << 20)
    it.restore()  # it would come below the reserve again
    assert not ballast.exists()
    monkeypatch.undo()
    it.restore()
    assert ballast.exists()


def test_without_a_reserve_there_is_no_ballast_and_nothing_is_low(tmp_path: Path) -> None:
    it = disk.Disk(tmp_path / "backlog.db", 0)
    assert not it.low()
    assert list(tmp_path.iterdir()) == []


def test_a_ballast_that_cannot_be_made_is_no_failure_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota, of which nobody knows beforehand."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    it = disk.Disk(tmp_path / "backlog.db", 1 << 20)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    it.restore()
    assert [file.name for file in tmp_path.iterdir()] == ["backlog.db.ballast"]
