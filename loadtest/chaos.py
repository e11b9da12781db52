"""The audit on one page: a stack of its own, a load, kills at random; then every accepted job is looked at."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from random import SystemRandom
from typing import Any

import requests

from . import client, judge, ledger, report
from .exits import Exit
from .findings import Findings, Store, examine
from .findings import report as told_in_words
from .killer import Killer, Target, killing
from .ledger import Ledger
from .pool import arriving, client_pool
from .progress import Progress
from .run import follow_all
from .settings import JOBS, MOST_CLIENTS, Option, Settings, output_file, output_folder, whole
from .target import DRAIN, LEASE, TARGETS, Compose, Native
from .victim import lives

HELP = "kill -9, stop and terminate everything at random under load, then account for every accepted job"

TIMEOUT = 10.0  # seconds to connect, and again for an answer: longer than any stop of ours
PATIENCE = 60.0  # seconds without any job ending after which following gives up
QUIET = 30.0  # seconds for what else there is (jobs whose answer was lost), and for readiness
ORPHAN = 8.0  # seconds a process may be without its parent: a producer drains when its master is killed
LOOK = 0.2
ROUNDS = 3  # of asking for documents
ENDS = ("succeeded", "failed")
MOST_MINUTES, MOST_RATE, MOST_SEED = 60.0, 1000, 2**32


def minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MOST_MINUTES:
        raise ValueError(f"must be a number of minutes, above 0 and at most {MOST_MINUTES:g}")
    return value


def seed(text: str) -> int:
    return whole(MOST_SEED)(text) if text else SystemRandom().randint(1, MOST_SEED)


def engine(text: str) -> str:
    if text not in TARGETS:
        raise ValueError(f"must be {' or '.join(TARGETS)}")
    return text


OPTIONS: tuple[Option, ...] = (
    Option("minutes", "2", minutes, "how long processes are killed"),
    Option("seed", "", seed, "the same number, the same sequence of choices; without it, a new one"),
    Option("stack", "native", engine, "where the stack of its own runs: native or docker"),
    Option("clients", "8", whole(MOST_CLIENTS), "client processes"),
    Option("rate", "40", whole(MOST_RATE), "requests a second, of all clients together"),
    Option("out", "var/chaos", output_folder, "folder for the ledger, the database, and the logs of a run that failed"),
    Option("json", "", output_file, "file for everything that was found, as JSON"),
)


def main(values: dict[str, Any]) -> Exit:
    seconds, out = 60 * values["minutes"], Path(values["out"]).resolve()
    # First, so that a run that is cut short can be repeated.
    print(f"seed {values['seed']}, {values['stack']}, {seconds:g} s", flush=True)
    (out / "ledger.jsonl").unlink(missing_ok=True)
    requests_in_all = max(1, round(seconds * values["rate"]))
    with TARGETS[values["stack"]]() as target:
        told = Settings(target.url, requests_in_all, values["clients"], "noop", {}, TIMEOUT, PATIENCE, JOBS, "")
        audit = Audit(target, told, values["seed"], out)
        with client_pool(told) as pool:
            audit.storm(pool, values["rate"])
            audit.settle(pool)
        audit.stop()
        findings = audit.findings(values["stack"])
        if findings.broken():
            target.logs(out)
    print(told_in_words(findings), flush=True)
    if values["json"]:
        report.save(values["json"], findings.figures())
    return findings.verdict()


class Audit:
    """What is known so far, step by step: storm, settle, stop, findings."""

    def __init__(self, target: Native | Compose, settings: Settings, seed: int, out: Path) -> None:
        self.target, self.settings, self.seed, self.out = target, settings, seed, out
        self.path = out / "ledger.jsonl"
        self.documents: dict[str, dict[str, Any]] = {}
        self.lost: list[str] = []
        self.orphans: list[str] = []
        self.store = Store("not looked at")

    def storm(self, pool: Pool, rate: int) -> None:
        """Load, and kills. The load goes on for as long as they do; then everything that was stopped goes on."""
        writer = Ledger(str(self.path))
        self.killer = Killer(self.target, writer, self.seed, LEASE)
        began = time.monotonic()
        send = partial(ledger.submit, str(self.path), self.seed)
        with killing(self.killer) as run, Progress("requests", self.settings.n) as bar:
            for _ in arriving(pool, send, paced(self.settings.n, rate), self.settings):
                bar.advance()
                if run.done():
                    break  # it failed, and says why when the block ends
        self.seconds = time.monotonic() - began
        writer.close()

    def settle(self, pool: Pool) -> None:
        """Every accepted job to its end, and its document."""
        wait_until_ready(self.target.url)
        ids = [event["id"] for event in ledger.read(self.path) if event["event"] == "accepted"]
        follow = follow_all(pool, self.settings, ids)
        self.lost = [f"{id} ({why})" for id, why in follow.lost]
        self.fetch(pool, ids)
        open_ends = {id: self.documents.get(id, {}).get("state", "no document") for id in ids}
        self.lost += [
            f"{id} (without an end: {state})"
            for id, state in open_ends.items()
            if state not in ENDS and id not in {lost.id for lost in follow.lost}
        ]
        wait_until_quiet(self.target.url)

    def fetch(self, pool: Pool, ids: list[str]) -> None:
        """Their documents; those that could not be had are asked for again."""
        with Progress("documents", len(ids)) as bar:
            for _ in range(ROUNDS):
                missing = [id for id in ids if id not in self.documents]
                for id, document in arriving(pool, ledger.fetch, missing, self.settings):
                    if document:
                        self.documents[id] = document
                        bar.advance()

    def stop(self) -> None:
        self.orphans = [f"{pid} while the stack ran" for pid in sorted(strays(self.target))]
        seen = self.killer.seen | {(victim.pid, victim.born) for victim in self.target.victims()}
        self.target.stop()
        alive = {pid for pid, born in seen if lives(pid, born)} | self.target.left()
        self.orphans += [f"{pid or 'ended by down'} after the stop" for pid in sorted(alive)]
        self.store = examine(self.target.database(self.out))

    def findings(self, engine: str) -> Findings:
        events = ledger.read(self.path)
        kills = judge.kills_of(events)
        histories = {id: judge.lines_of(document) for id, document in self.documents.items()}
        lines = [line for history in histories.values() for line in history]
        explained = judge.explain(lines, kills, judge.Limits(LEASE, DRAIN))
        by = {word: [e for e in events if e["event"] == word] for word in ("sent", "accepted", "refused", "unknown")}
        sent = {event["number"]: event for event in by["sent"]}
        answers = Counter({word: len(by[word]) for word in ("accepted", "refused", "unknown")})
        answers["unknown"] += len(sent) - answers.total()  # a client that was cut off before it could note an answer
        return Findings(
            seed=self.seed,
            engine=engine,
            seconds=round(self.seconds, 1),
            sent=len(sent),
            answers=answers,
            reasons=Counter(f"{e['event']}: {e['reason']}" for e in by["refused"] + by["unknown"]),
            states=Counter(d["state"] for d in self.documents.values() if d["state"] in ENDS),
            lost=self.lost,
            wrong=list(self.wrong(by["accepted"], sent)),
            false_refusals=[e["number"] for e in by["refused"] if self.store.numbers[e["number"]]],
            twice=[number for number, count in self.store.numbers.items() if count > 1],
            explained=explained,
            recoveries=judge.recoveries(explained, histories, kills),
            orphans=self.orphans,
            store=self.store,
            kills=kills,
        )

    def wrong(self, accepted: list[dict[str, Any]], sent: dict[int, dict[str, Any]]) -> Iterator[str]:
        for event in accepted:
            document, asked = self.documents.get(event["id"]), sent[event["number"]]
            if document and document["state"] in ENDS:
                why = judge.wrong(document, asked["job"], asked["args"])
                if why:
                    yield f"{event['id']}: {why}"


def paced(count: int, rate: int) -> Iterator[int]:
    """The numbers of the requests, each when its time has come."""
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        yield number


def wait_until_ready(url: str) -> None:
    """Or not: what never gets ready has lost what it accepted, and that is told of each job."""
    eventually(lambda: client_get(url, "/readyz") is not None)


def wait_until_quiet(url: str) -> None:
    def quiet() -> bool:
        stats = client_get(url, "/stats")
        return stats is not None and stats["states"]["queued"] + stats["states"]["running"] == 0

    eventually(quiet)


def strays(target: Target) -> set[int]:
    """Who has no parent of the stack, and still none after a while."""
    found = target.strays()
    deadline = time.monotonic() + ORPHAN
    while found and time.monotonic() < deadline:
        time.sleep(LOOK)
        found &= target.strays()
    return found


def eventually(condition: Callable[[], bool]) -> None:
    """Waits for it, up to QUIET."""
    deadline = time.monotonic() + QUIET
    while not condition() and time.monotonic() < deadline:
        time.sleep(LOOK)


def client_get(url: str, path: str) -> Any:
    """The JSON of a 200, else None."""
    try:
        with closing(client.connect(url, TIMEOUT)) as transport:
            response = transport.send("GET", path)
            return response.json() if response.status_code == 200 else None
    except (requests.RequestException, ValueError):
        return None
