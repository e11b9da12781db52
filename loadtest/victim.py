"""The processes of one stack: what each is, and which producers go down with it."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
PARENT, BORN = 1, 19  # fields of /proc/<pid>/stat after the name
INIT = ("docker-init", "tini")


class Victim(NamedTuple):
    """`born` tells it from whoever gets its number later; `workers` begin the names of the producers it takes along."""

    role: str
    pid: int
    born: int  # clock ticks since boot
    workers: tuple[str, ...] = ()
    container: str = ""

    @property
    def age(self) -> float:
        """Seconds."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.born / TICKS


def role_of(words: list[str], above: str) -> str:
    """What a process does, by its command line and by what its parent does."""
    line = " ".join(words)
    if Path(words[0]).name in INIT:
        return "init"
    if "supervisord" in line or "docker/entrypoint.py" in line:
        return "supervisord"
    if "exit_on_fatal" in line:
        return "listener"
    if "multiprocessing.resource_tracker" in line:
        return "tracker" if above in ("producer", "fork server") else "orphan"
    if "multiprocessing.forkserver" in line:
        return {"producer": "fork server", "fork server": "slot"}.get(above, "orphan")
    if "nginx" in line:
        return "nginx worker" if above == "nginx master" else "nginx master"
    if "serve" in words:
        return {"supervisord": "master", "master": "producer", "producer": "other"}.get(above, "orphan")
    return "other"


def families() -> dict[int, list[tuple[int, int]]]:
    """Of every process on this machine: its children, as (process id, born)."""
    found: dict[int, list[tuple[int, int]]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = stat_of(int(process.name))
            found.setdefault(int(stat[PARENT]), []).append((int(process.name), int(stat[BORN])))
    return found


def stat_of(pid: int) -> list[str]:
    """Raises OSError when it is gone."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def born(pid: int) -> int | None:
    with suppress(OSError):
        return int(stat_of(pid)[BORN])
    return None


def lives(pid: int, since: int) -> bool:
    with suppress(OSError):
        stat = stat_of(pid)
        return int(stat[BORN]) == since and stat[0] not in "ZX"
    return False


def words_of(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    return [""]


def worker_name(pid: int, host: str) -> str:
    """How its name in the histories begins: host and process id, as the producer itself sees them."""
    with suppress(OSError):
        (inner,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:")]
        return f"{host}.{inner.split()[-1]}."
    return ""


def tree(root: int, host: str, container: str = "") -> list[Victim]:
    """The process `root` and all below it."""
    since = born(root)
    return below(families(), root, since, "", (), host, container) if since is not None else []


def below(
    children: dict[int, list[tuple[int, int]]],
    pid: int,
    since: int,
    above: str,
    workers: tuple[str, ...],
    host: str,
    container: str,
) -> list[Victim]:
    role = role_of(words_of(pid), above)
    if role == "producer":
        workers = (worker_name(pid, host),)
    found: list[Victim] = []
    for child, child_born in children.get(pid, []):
        found += below(children, child, child_born, role, workers, host, container)
    taken = workers or tuple(sorted({name for victim in found if victim.role == "producer" for name in victim.workers}))
    return [Victim(role, pid, since, taken, container), *found]
