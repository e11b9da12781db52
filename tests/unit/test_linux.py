"""What we ask the kernel: the cores that the cgroup grants, from trees as the kernel shows them."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest

from service import linux
from tests.support import real_time

ALL = 8  # cores of the machine in these tests


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(ALL)))


@pytest.fixture
def cores(tmp_path: Path) -> "Tree":
    return Tree(tmp_path)


class Tree:
    def __init__(self, folder: Path) -> None:
        self.membership, self.root = folder / "cgroup", folder / "root"
        self.root.mkdir()

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def member(self, text: str) -> int:
        self.membership.write_text(text)
        return linux.cores(self.membership, self.root)


def test_without_a_cgroup_all_cores_are_ours(cores: Tree) -> None:
    assert linux.cores(cores.membership, cores.root) == ALL
    assert cores.member("0::/\n") == ALL


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1000 100000\n", 1),
        ("max 100000\n", ALL),
        ("6400000 100000\n", ALL),
        ("nonsense\n", ALL),
        ("", ALL),
    ],
)
def test_version_2_grants_its_quota_rounded_up(cores: Tree, quota: str, expected: int) -> None:
    cores.write("app/cpu.max", quota)
    assert cores.member("0::/app\n") == expected


def test_version_2_grants_no_more_than_any_group_above(cores: Tree) -> None:
    cores.write("slice/cpu.max", "300000 100000\n")
    cores.write("slice/app/cpu.max", "max 100000\n")
    assert cores.member("0::/slice/app\n") == 3
    cores.write("slice/app/cpu.max", "100000 100000\n")
    assert cores.member("0::/slice/app\n") == 1


def test_in_a_container_the_path_may_be_the_hosts_and_only_the_root_is_there(cores: Tree) -> None:
    cores.write("cpu.max", "200000 100000\n")
    assert cores.member("0::/docker/0123abcd\n") == 2


def test_version_1_grants_its_quota_rounded_up(cores: Tree) -> None:
    cores.write("cpu/app/cpu.cfs_quota_us", "250000\n")
    cores.write("cpu/app/cpu.cfs_period_us", "100000\n")
    assert cores.member("5:memory:/app\n4:cpu,cpuacct:/app\n1:name=systemd:/\n") == 3


def test_version_1_without_a_quota_grants_all(cores: Tree) -> None:
    cores.write("cpu/app/cpu.cfs_quota_us", "-1\n")
    cores.write("cpu/app/cpu.cfs_period_us", "100000\n")
    assert cores.member("4:cpu,cpuacct:/app\n0::/\n") == ALL


def test_cpuset_is_not_taken_for_cpu(cores: Tree) -> None:
    cores.write("cpu/cpu.cfs_quota_us", "100000\n")
    cores.write("cpu/cpu.cfs_period_us", "100000\n")
    assert cores.member("3:cpuset:/\n") == ALL


def test_affinity_is_a_limit_too(cores: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    cores.write("cpu.max", "400000 100000\n")
    assert cores.member("0::/\n") == 1


@pytest.mark.parametrize("text", ["", "nonsense", "1:2", "\n\n", "0::\n"])
def test_a_membership_that_cannot_be_read_grants_all(cores: Tree, text: str) -> None:
    assert cores.member(text) == ALL


def test_on_this_machine_there_is_at_least_one_core() -> None:
    assert linux.cores() >= 1


def test_children_are_those_of_this_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in linux.children(os.getpid())
        child.communicate(b"\n")
    assert child.pid not in linux.children(os.getpid())


def test_who_goes_while_it_is_asked_for_has_no_children() -> None:
    for _ in range(300):
        process = subprocess.Popen(["/bin/true"])
        reaper = Thread(target=process.wait)
        reaper.start()
        while reaper.is_alive():
            assert linux.children(process.pid) == []
        reaper.join()


def test_a_group_is_killed_with_all_that_was_started_in_it() -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, process_group=0) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        linux.kill_group(leader.pid)
        assert leader.wait(10) == -9
        assert leader.stdout.read() == b""  # the grandchild held the pipe open, and has gone
    linux.kill_group(leader.pid)  # a group that has gone is no error


def test_a_process_dies_with_its_parent() -> None:
    # Not input(): the parent's death also closes its pipe, and it would sometimes be told of that first.
    child = "import signal; from service import linux; linux.die_with_parent(); print(1, flush=True); signal.pause()"
    parent = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "p.stdout.readline(); print(1, flush=True); input()"
    )
    here = Path(__file__).parents[2]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", parent], cwd=here, stdin=pipe, stderr=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"1\n"
        process.kill()
        assert process.stderr.read() == b""  # the child held it open, and has gone without a word


def policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


@real_time
def test_a_thread_runs_at_once_and_nobody_that_it_starts() -> None:
    code = "import os; print(os.sched_getscheduler(0) == os.SCHED_OTHER)"
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(linux.run_at_once).result()
        assert thread.submit(policy).result() == os.SCHED_RR
        assert thread.submit(subprocess.check_output, [sys.executable, "-c", code]).result() == b"True\n"
        assert thread.submit(linux.run_at_once, False).result()
        assert thread.submit(policy).result() == os.SCHED_OTHER


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_user_who_may_not_runs_as_before() -> None:
    code = (
        "import os, resource; from service import linux\n"
        "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0)); os.setresuid(65534, 65534, 65534)\n"
        "print(linux.run_at_once(), os.sched_getscheduler(0) == os.SCHED_OTHER)"
    )
    here = Path(__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=here) == b"False True\n"


def test_where_the_libc_cannot_all_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(pid: int, policy: int, parameters: os.sched_param) -> None:
        raise OSError(errno.ENOSYS, "musl has no such thing")

    monkeypatch.setattr(os, "sched_setscheduler", cannot)
    assert not linux.run_at_once()
