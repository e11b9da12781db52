"""The few things that only the Linux kernel can do for us, by prctl(2), /proc and the cgroup."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import resource
import select
import signal
import struct
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8
TRIM_THRESHOLD = 128 << 10  # bytes, glibc's own; once it is set, it no longer grows with every large body
# A nice value, and nanoseconds (the default slice is about 3 ms). With less of the one or more of the other, a process
# that is killed while others want all cores takes too long to be gone: it must be run for that. It took 290 ms at most
# with these, 580 ms with 19 and 100 ms; the promise is a second.
LOW, SLICE = 15, 20_000_000
AUTOGROUP_TRIES = 300
AUTOGROUP_AGAIN = 0.1  # seconds; so often the kernel lets one process of all those that are not root's do it
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # system call numbers; few C libraries have a function for it

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def die_with_parent(signum: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Get `signum` when the thread that created this process ends, however it ends. `parent` is its process id,
    as known before the fork; without it, a parent that is gone already is not noticed."""
    parent = parent or os.getppid()
    _prctl(PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it died before the kernel knew of our wish
        os.kill(os.getpid(), signum)


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind, so that it can be ended and reaped here."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def give_memory_back() -> None:
    """Call before there are threads. glibc keeps what a large body took, and that for every thread: after some thousand
    requests a producer had 60 MB instead of 23. Another libc has no mallopt(3), or one that does nothing."""
    mallopt = getattr(_libc, "mallopt", lambda option, value: None)
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def leave_process_group() -> None:
    """Lead a group of one's own: signals to the old group no longer arrive, and the group can be killed."""
    os.setpgid(0, 0)


def yield_to_others() -> None:
    """Whatever this process computes, and whatever it starts, it hardly delays anybody else.

    It leads a session of its own, since the scheduler shares out among sessions first (sched(7), autogroup): a nice
    value only counts within one; `low_share` is the other half. A small share is not enough: who wakes up would still
    wait for the end of a slice, at every process that a request goes through. From Linux 6.12 on, whoever has the
    shorter slice does not wait. With all slots computing, the p99 of 200 accepts a second was 115 ms, with the share
    34 ms, with the slice 8 ms."""
    os.setsid()
    os.nice(LOW)
    if number := SCHED_SETATTR.get(platform.machine()):
        # struct sched_attr: size, policy (the ordinary one), flags, nice, priority, runtime, deadline, period
        attributes = struct.pack("=IIQiIQQQ", 48, 0, 0, LOW, 0, SLICE, 0, 0)
        _libc.syscall(number, 0, attributes, 0)  # where it is refused, all stays as it is


def low_share() -> None:
    """The same for the share of the session. In a thread: it may take seconds, when many ask."""
    for _ in range(AUTOGROUP_TRIES):
        try:
            Path("/proc/self/autogroup").write_text(str(LOW))
            return
        except BlockingIOError:
            time.sleep(AUTOGROUP_AGAIN)
        except OSError:  # a kernel without autogroups, or a container where they are not used
            return


def run_at_once(yes: bool = True) -> bool:
    """This thread, and nothing that it starts, gets a core as soon as it wants one, whatever computes beside it; only
    for one that computes little. False where it may not (sched(7): that takes root, or an RLIMIT_RTPRIO of 1), or
    cannot, with another libc for instance: then all stays as it is."""
    policy, priority = (os.SCHED_RR, 1) if yes else (os.SCHED_OTHER, 0)
    try:
        os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError:
        return False
    return True


def kill_group(leader: int) -> None:
    """SIGKILL a process that leads its group, and what is in the group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def kill_tree(root: int) -> None:
    """SIGKILL a process that leads its group and adopts orphans, and everything it started, whatever group or
    session that has moved to."""
    for pid in descendants(root):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    kill_group(root)


def descendants(root: int) -> list[int]:
    found = []
    for pid in children(root):
        found += [pid, *descendants(pid)]
    return found


def children(pid: int) -> list[int]:
    """Process ids of a process's children, adopted ones included; none when it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it may go at any moment, as each of its threads
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def ends(pid: int, within: float) -> bool:
    """Whether a process has ended, or does so within so many seconds; reaped or not."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(1000 * within))
    finally:
        os.close(fd)


def clock() -> float:
    """Seconds on a clock that all processes of this boot share and nobody can set. It stands still while the
    machine is suspended: on CLOCK_BOOTTIME every lease would have ended when the lid is opened."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def limit_memory(most: int) -> None:
    """This process and each that it starts may take `most` bytes of private memory; an allocation above fails."""
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def first_to_go() -> None:
    """Where the machine runs out of memory, the kernel ends this process before those that serve."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def raise_file_limit() -> None:
    """As many open files as the hard limit grants: every connection and every slot needs some."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
