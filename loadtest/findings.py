"""What an audit found: the figures, the text for people, the verdict."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .exits import Exit
from .judge import Explained, Kill, Recovery

NAMED = 20  # of each kind printed; all of them are in the JSON file
PROMISE = 2.0  # seconds from a kill to the next start, where another producer lives


@dataclass
class Store:
    """The database after the stop."""

    integrity: str
    numbers: Counter[int] = field(default_factory=Counter)  # how often the job of each numbered request is there
    open: int = 0  # jobs without an end
    miscounted: list[str] = field(default_factory=list)  # states of which /stats tells a wrong number


def examine(path: Path) -> Store:
    import apsw  # only here: a load test needs nothing of the server

    db = apsw.Connection(str(path))
    try:
        store = Store(str(db.pragma("integrity_check")))
        rows: Any = db.execute("SELECT json_extract(args, '$.job_id') FROM jobs").fetchall()
        store.numbers = Counter(number for (number,) in rows if number is not None)
        real = pairs(db, "SELECT state, count(*) FROM jobs GROUP BY state")
        told = pairs(db, "SELECT state, n FROM counts")
        store.open = real.get("queued", 0) + real.get("running", 0)
        store.miscounted = [
            f"{state}: {told.get(state, 0)} told, {real.get(state, 0)} there"
            for state in sorted(real.keys() | told.keys())
            if real.get(state, 0) != told.get(state, 0)
        ]
        return store
    except apsw.Error as error:
        return Store(f"cannot be read: {error}")
    finally:
        db.close()


def pairs(db: Any, query: str) -> dict[str, int]:
    return {state: n for state, n in db.execute(query)}


@dataclass
class Findings:
    seed: int
    engine: str
    seconds: float
    sent: int
    answers: Counter[str]  # accepted, refused, unknown
    reasons: Counter[str]  # of the last two
    states: Counter[str]  # of the accepted
    lost: list[str]
    wrong: list[str]
    false_refusals: list[int]  # refused, and stored all the same
    twice: list[int]  # one request, several jobs
    explained: list[Explained]
    recoveries: list[Recovery]
    orphans: list[str]
    store: Store
    kills: list[Kill]

    @property
    def unexplained(self) -> list[Explained]:
        return [it for it in self.explained if it.kill is None]

    def broken(self) -> list[str]:
        """The broken promises, a line each."""
        return [
            *(f"LOST {text}" for text in self.lost),
            *(f"WRONG {text}" for text in self.wrong),
            *(f"REFUSED, AND STORED number {number}" for number in self.false_refusals),
            *(f"STORED TWICE number {number}" for number in self.twice),
            *(f"UNEXPLAINED {said(it)}" for it in self.unexplained),
            *(f"LATE {it.id}: {it.seconds:.2f} s" for it in self.recoveries if it.undisturbed and it.seconds > PROMISE),
            *(f"ORPHAN {text}" for text in self.orphans),
            *([f"INTEGRITY {self.store.integrity}"] if self.store.integrity != "ok" else []),
            *(f"MISCOUNTED {text}" for text in self.store.miscounted),
            *([f"OPEN {self.store.open} jobs after the last had ended"] if self.store.open else []),
        ]

    def verdict(self) -> Exit:
        return Exit.LOST if self.broken() else Exit.OK

    def figures(self) -> dict[str, Any]:
        parts = {name: value for name, value in vars(self).items() if name not in ("explained", "kills", "recoveries")}
        content = parts | {name: [asdict(it) for it in getattr(self, name)] for name in vars(self).keys() - parts}
        store = {name: value for name, value in vars(self.store).items() if name != "numbers"}
        return content | {"store": store, "broken": self.broken(), "exit": int(self.verdict())}


def said(it: Explained) -> str:
    line = it.line
    return f"{line.id} attempt {line.attempt} by {line.worker}: {line.outcome}: {line.reason}"


def report(findings: Findings) -> str:
    f, told = findings, findings.broken()
    lines = [
        f"seed {f.seed}, {f.engine}, {f.seconds:.0f} s of chaos, {len(f.kills)} hits",
        *hits(f.kills),
        f"sent {f.sent} = " + " + ".join(f"{word} {f.answers[word]}" for word in ("accepted", "refused", "unknown")),
        *(f"  {count} x {reason}" for reason, count in f.reasons.most_common(NAMED)),
        f"accepted {f.answers['accepted']} = {counted(f.states)} + lost {len(f.lost)}",
        *executions(f.explained),
        *recovered(f.recoveries),
        f"wrong ends {len(f.wrong)}, refused and stored {len(f.false_refusals)}, stored twice {len(f.twice)}, "
        f"orphans {len(f.orphans)}, integrity {f.store.integrity}, miscounted states {len(f.store.miscounted)}",
        *told[:NAMED],
        *([f"… and {len(told) - NAMED} more"] if len(told) > NAMED else []),
        "The promises hold." if not told else f"{len(told)} broken promises.",
    ]
    return "\n".join(lines)


def counted(states: Counter[str]) -> str:
    rest = sorted(states.keys() - {"succeeded", "failed"})
    return " + ".join(f"{state} {states[state]}" for state in ("succeeded", "failed", *rest))


def hits(kills: list[Kill]) -> list[str]:
    by = Counter((kill.role, kill.signal) for kill in kills)
    roles = sorted({role for role, _ in by})
    width = max(map(len, roles), default=0)
    return [
        f"  {role.ljust(width)}  " + "  ".join(f"{name} {by[role, name]:3}" for name in ("KILL", "STOP", "TERM"))
        for role in roles
    ]


def executions(explained: list[Explained]) -> list[str]:
    """The attempts that ended otherwise than they would have without chaos."""
    by = Counter((it.line.outcome, it.line.reason, cause(it)) for it in explained)
    unexplained = sum(it.kill is None for it in explained)
    return [
        f"executions beyond what was asked for: {len(explained)}, unexplained {unexplained}",
        *(f"  {n} x {outcome}: {reason}, after {why}" for (outcome, reason, why), n in by.most_common(NAMED)),
    ]


def cause(it: Explained) -> str:
    if it.kill is None:
        return "nothing that we did"
    return f"{it.kill.signal} of {'another ' if it.bystander else 'the '}{it.kill.role}"


def recovered(recoveries: list[Recovery]) -> list[str]:
    if not recoveries:
        return ["nothing that a killed producer held had to run again"]
    calm = [it.seconds for it in recoveries if it.undisturbed]
    late = sum(seconds > PROMISE for seconds in calm)
    line = f"from the kill of a producer to the next start of what it ran: {len(recoveries)} times"
    line += f", at most {max(it.seconds for it in recoveries):.2f} s"
    if calm:
        line += f"; {len(calm)} times with nobody else hit, at most {max(calm):.2f} s, above {PROMISE:g} s {late} times"
    return [line]
