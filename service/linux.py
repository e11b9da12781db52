"""The few things that only the Linux kernel can do for us, by prctl(2), /proc and the cgroup."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Get `signum` when the thread that created this process ends, however it ends."""
    parent = os.getppid()
    _prctl(PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it died before the kernel knew of our wish
        os.kill(os.getpid(), signum)


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind, so that it can be ended and reaped here."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def leave_process_group() -> None:
    """Lead a group of one's own: signals to the old group no longer arrive, and the group can be killed."""
    os.setpgid(0, 0)


def kill_group(leader: int) -> None:
    """SIGKILL a process that leads its group, and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def children() -> list[int]:
    """Process ids of this process's children, adopted ones included."""
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def cores(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: its affinity, or less where the cgroup's quota says so.

    os.cpu_count() ignores a container's quota: 80 processes on the 2 cores that were granted."""
    granted = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quotas = [quota for quota in _quotas(proc.read_text(), root) if quota]
        granted = min([granted, *(math.ceil(quota) for quota in quotas)])
    return max(granted, 1)


def _quotas(memberships: str, root: Path) -> list[float | None]:
    found = []
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            found += [_quota_v2(root / up / "cpu.max") for up in _upwards(path)]
        elif "cpu" in controllers.split(","):
            found += [_quota_v1(root / "cpu" / up) for up in _upwards(path)]
    return found


def _upwards(path: str) -> list[str]:
    # Inside a container the path may be the host's, and then only the root is there to be read.
    parts = path.strip("/").split("/")
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def _quota_v2(file: Path) -> float | None:
    if not file.exists():
        return None
    quota, period = file.read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    file = folder / "cpu.cfs_quota_us"
    if not file.exists() or int(file.read_text()) <= 0:
        return None
    return int(file.read_text()) / int((folder / "cpu.cfs_period_us").read_text())
