"""Pure: which kill explains a line in a job's history? And what does no kill explain?"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# Seconds in which a killed slot may still be given a job: it has a low share of a busy core, and is run to be gone.
DYING = 0.5
SLACK = 0.05  # seconds that the order of two notes may be off
DEATH = (
    10.0  # seconds until a killed producer's jobs are found: 2 s promised, or the boot of a new one on a busy machine
)
CRASH = 3.0  # seconds until a producer has recorded that a slot died: up to 1 s to learn its exit code
DRAIN_MORE = 7.5  # seconds beyond DRAIN: letting go of connections 2.5, last commits 2, a busy machine 3
HUNG = 0.6  # leases: a lease is renewed every third of it, so one that hangs for two thirds may lose it
AFTER = 2.0  # seconds from the end of a stop until its consequences are recorded

NOT_BEGUN = "not begun: "  # how service.course begins what it says of a job that did not run
CRASHES = 3  # as service.retry has it: a job that kills its slot this often is failed
WHOLE = ("container", "init", "supervisord")  # roles whose death is the death of all below
SERVING = ("producer", "master", *WHOLE)


@dataclass(frozen=True)
class Kill:
    at: float  # seconds since the epoch
    pid: int
    role: str
    signal: str
    workers: tuple[str, ...]  # how the names of the producers begin that it concerns
    until: float = float("inf")  # of a STOP: its CONT; of a KILL: when it had been carried out

    @property
    def length(self) -> float:
        return self.until - self.at

    def concerns(self, worker: str) -> bool:
        return any(name and worker.startswith(name) for name in self.workers)

    def __str__(self) -> str:
        return f"{self.signal} {self.role} {self.pid}"


@dataclass(frozen=True)
class Line:
    """One line of a history."""

    id: str
    attempt: int
    worker: str
    started: float
    finished: float
    outcome: str
    reason: str


@dataclass(frozen=True)
class Limits:
    """Settings of the stack, in seconds."""

    lease: float
    drain: float


@dataclass(frozen=True)
class Explained:
    line: Line
    kill: Kill | None
    bystander: bool = False  # its producer was not hit; another, stopped, had the store's lock


def kills_of(events: Iterable[dict[str, Any]]) -> list[Kill]:
    events = list(events)
    ends = {(e["pid"], e["since"]): e["at"] for e in events if e["event"] == "continued"}
    return [
        Kill(
            e["at"],
            e["pid"],
            e["role"],
            e["signal"],
            tuple(e["workers"]),
            ends.get((e["pid"], e["at"]), float("inf")) if e["signal"] == "STOP" else e.get("until", e["at"]),
        )
        for e in events
        if e["event"] == "kill"
    ]


def lines_of(document: dict[str, Any]) -> list[Line]:
    return [
        Line(
            document["id"],
            entry["attempt"],
            entry["worker"],
            datetime.fromisoformat(entry["started_at"]).timestamp(),
            datetime.fromisoformat(entry["finished_at"]).timestamp(),
            entry["outcome"],
            entry["reason"] or "",
        )
        for entry in document["history"]
    ]


def expected(line: Line) -> bool:
    """What needs no kill: a success, a failure that was asked for, and what was no execution."""
    asked = line.outcome == "raised" and line.reason.endswith("fails as asked")
    return line.outcome == "succeeded" or asked or line.reason.startswith(NOT_BEGUN)


def explain(lines: Iterable[Line], kills: list[Kill], limits: Limits) -> list[Explained]:
    """The unexpected lines, oldest first, each with its kill. A killed slot ran one job: it explains one line."""
    free = set(kills)
    found = []
    for line in sorted((line for line in lines if not expected(line)), key=lambda line: line.finished):
        able = [kill for kill in kills if kill in free and causes(kill, line, kills, limits)]
        direct = [kill for kill in able if kill.concerns(line.worker)]
        kill = max(direct or able, key=lambda kill: (kill.role != "slot", kill.at), default=None)
        if kill and kill.role == "slot":
            free.remove(kill)
        found.append(Explained(line, kill, bystander=bool(able) and not direct))
    return found


def causes(kill: Kill, line: Line, kills: list[Kill], limits: Limits) -> bool:
    """Can this kill have led to that line?"""
    if line.reason == "its producer hung beyond its lease" or line.reason == "the lease was lost":
        return hung(kill, line, limits)
    if not kill.concerns(line.worker) or kill.at > line.finished + SLACK:
        return False
    took = line.finished - kill.at - stopped_between(delaying(kills, line.worker), kill.at, line.finished)
    match line.outcome, line.reason:
        case "lost", "its producer died":
            all_end = dies(kill) or hangs_up(kill, kills) or cuts_short(kill, kills, limits)
            killed = all_end and line.started <= kill.until + SLACK and took <= DEATH
            return killed or (drains(kill) and limits.drain <= took <= limits.drain + DRAIN_MORE)
        case ("lost", "its producer ended") | ("returned", "the producer stops"):
            return drains(kill) and took <= limits.drain + DRAIN_MORE
        case "crashed", _:
            return slot_dies(kill) and line.started <= kill.at + DYING and took <= CRASH
        case "returned", reason if reason.startswith(("a slot cannot start", "the slot had died before")):
            return slot_dies(kill) and took <= CRASH
        case _:
            return False


def dies(kill: Kill) -> bool:
    return kill.signal == "KILL" and kill.role in ("producer", *WHOLE)


def drains(kill: Kill) -> bool:
    """A master's death is a SIGTERM to its producers."""
    return (kill.signal == "TERM" and kill.role in SERVING) or (kill.signal == "KILL" and kill.role == "master")


def hangs_up(kill: Kill, kills: list[Kill]) -> bool:
    """A process group whose master dies while a member is stopped gets SIGHUP from the kernel (setpgid(2)):
    producers die of it at once, instead of draining."""
    members = ("producer", "tracker")  # the others lead groups of their own
    stops = [k for k in kills if k.signal == "STOP" and k.role in members and k.at <= kill.at <= k.until]
    return kill.signal == "KILL" and kill.role == "master" and any(set(k.workers) & set(kill.workers) for k in stops)


def cuts_short(kill: Kill, kills: list[Kill], limits: Limits) -> bool:
    """A container that was told to stop waits for its master only: the producers, which still drain, end with it."""
    told = [k for k in kills if k.signal == "TERM" and k.role in WHOLE]
    stopping = [k for k in told if 0 <= kill.at - k.at <= limits.drain + DRAIN_MORE]
    master = kill.signal == "KILL" and kill.role == "master"
    return master and any(k.concerns(worker) for k in stopping for worker in kill.workers)


def slot_dies(kill: Kill) -> bool:
    return kill.signal == "KILL" and kill.role in ("slot", "fork server")


def hung(kill: Kill, line: Line, limits: Limits) -> bool:
    """Its own producer, or another that had the store's lock, so that nobody could renew a lease."""
    long = kill.signal == "STOP" and kill.role == "producer" and kill.length >= HUNG * limits.lease
    return long and kill.at + HUNG * limits.lease <= line.finished + SLACK and line.finished <= kill.until + AFTER


def delaying(kills: list[Kill], worker: str) -> list[Kill]:
    """The stops of any producer, which may have had the store's lock, and those of this one's fork server, which alone
    learns that a slot died."""
    return [
        kill
        for kill in kills
        if kill.signal == "STOP" and (kill.role == "producer" or (kill.role == "fork server" and kill.concerns(worker)))
    ]


def stopped_between(stops: list[Kill], since: float, until: float) -> float:
    """Seconds between the two in which somebody was stopped."""
    spans = sorted(
        (max(kill.at, since), min(kill.until, until)) for kill in stops if kill.at < until and kill.until > since
    )
    total, end = 0.0, since
    for first, last in spans:
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


@dataclass(frozen=True)
class Recovery:
    """From a kill to the next start of a job that it had interrupted, in seconds."""

    id: str
    seconds: float
    undisturbed: bool  # no other producer was hit in the meantime: the promise of 2 s is for these


def recoveries(explained: list[Explained], histories: dict[str, list[Line]], kills: list[Kill]) -> list[Recovery]:
    found = []
    for it in explained:
        if it.kill and it.line.reason == "its producer died" and dies(it.kill):
            history = histories[it.line.id]
            later = history[history.index(it.line) + 1 :]
            if later:
                start = later[0].started
                found.append(Recovery(it.line.id, start - it.kill.at, undisturbed(it.kill, start, kills)))
    return found


def undisturbed(kill: Kill, until: float, kills: list[Kill]) -> bool:
    """Another producer can still be booting after a hit of some seconds ago."""
    booting = 5.0
    others = [k for k in kills if k is not kill and k.role in SERVING and k.at <= until]
    return kill.role == "producer" and not any(max(k.at, k.until) + booting >= kill.at for k in others)


def wrong(document: dict[str, Any], job: str, args: dict[str, Any]) -> str:
    """What is wrong with how a job ended, in words; empty when nothing is."""
    outcomes = [entry["outcome"] for entry in document["history"]]
    wanted = 1 if document["state"] == "succeeded" else 0
    if outcomes.count("succeeded") != wanted or (wanted and outcomes[-1] != "succeeded"):
        return f"{document['state']} with a history of {', '.join(outcomes)}"
    if document["state"] == "failed":
        used_up = document["attempt"] >= document["attempts"] or outcomes.count("crashed") >= CRASHES
        return "" if document["error"] and used_up else f"failed with a history of {', '.join(outcomes)}"
    if job == "flaky":
        return "" if document["result"] > args["failures"] else f"result {document['result']!r} of {args}"
    return "" if document["result"] == args["job_id"] else f"result {document['result']!r} of {args}"
