"""Which hit explains what: no more than it can have done, and nothing without one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import pytest

from loadtest import findings, judge, killer, ledger
from loadtest.exits import Exit
from loadtest.findings import Findings, Store
from loadtest.judge import Kill, Limits, Line, Recovery, explain
from loadtest.target import WEIGHTS
from loadtest.victim import role_of
from service import course, retry

LIMITS = Limits(lease=3.0, drain=3.0)
DIED, HUNG = "its producer died", "its producer hung beyond its lease"
P, Q = "host.10.", "host.11."


def kill(at: float, role: str, signal: str, *workers: str, until: float | None = None) -> Kill:
    return Kill(at, 1, role, signal, workers or (P,), at if until is None else until)


def line(outcome: str, reason: str, finished: float = 100.0, id: str = "a", worker: str = P) -> Line:
    return Line(id, 1, f"{worker}abcdef", finished - 1, finished, outcome, reason)


CRASHED = line("crashed", "the slot's process was killed by SIGKILL")


@pytest.mark.parametrize(
    ("what", "by"),
    [
        (CRASHED, kill(99.9, "slot", "KILL")),
        (CRASHED, kill(99.9, "fork server", "KILL")),
        (line("lost", DIED), kill(99.5, "producer", "KILL")),
        (line("lost", DIED), kill(99.5, "container", "KILL", "host.")),
        (line("lost", DIED), kill(98.8, "container", "KILL", "host.", until=99.2)),  # Docker takes its time
        (line("lost", "its producer ended"), kill(92.0, "producer", "TERM")),
        (line("returned", "the producer stops"), kill(97.0, "master", "KILL", P, Q)),
        (line("lost", HUNG), kill(97.0, "producer", "STOP", until=101.0)),
        (line("returned", "the slot had died before"), kill(99.0, "slot", "KILL")),
    ],
)
def test_a_hit_explains_what_it_does(what: Line, by: Kill) -> None:
    (it,) = explain([what], [by], LIMITS)
    assert (it.kill, it.bystander) == (by, False)


@pytest.mark.parametrize(
    ("what", "by"),
    [
        (CRASHED, kill(99.9, "slot", "TERM")),  # slots ignore it
        (CRASHED, kill(99.9, "slot", "STOP", until=99.95)),
        (CRASHED, kill(99.9, "slot", "KILL", Q)),  # of another producer
        (CRASHED, kill(98.4, "slot", "KILL")),  # well before the job began
        (CRASHED, kill(100.2, "slot", "KILL")),  # after it had ended
        (CRASHED, kill(99.9, "tracker", "KILL")),
        (CRASHED, kill(99.9, "nginx worker", "KILL", P)),
        (replace(CRASHED, started=90.0), kill(95.0, "slot", "KILL")),  # too long ago
        (line("lost", DIED), kill(99.5, "slot", "KILL")),
        (line("lost", DIED), kill(80.0, "producer", "TERM")),
        (line("lost", HUNG), kill(99.0, "producer", "STOP", until=100.0)),  # too short for a lease of 3 s
        (line("lost", HUNG), kill(90.0, "producer", "STOP", until=95.0)),  # over for too long
        (line("timed_out", "over its limit of 60 s"), kill(99.0, "slot", "KILL")),
        (line("raised", "OSError: broken pipe"), kill(99.0, "slot", "KILL")),
    ],
)
def test_and_nothing_else(what: Line, by: Kill) -> None:
    (it,) = explain([what], [by], LIMITS)
    assert it.kill is None


def test_a_killed_slot_ran_one_job_and_explains_one_line() -> None:
    first, second = explain([CRASHED, replace(CRASHED, id="b")], [kill(99.9, "slot", "KILL")], LIMITS)
    assert [bool(first.kill), bool(second.kill)] == [True, False]
    both = explain([CRASHED, replace(CRASHED, id="b")], [kill(99.9, "fork server", "KILL")], LIMITS)
    assert all(it.kill for it in both)


def test_who_is_stopped_with_the_stores_lock_makes_others_hang_and_that_is_told_apart() -> None:
    stop = kill(96.0, "producer", "STOP", Q, until=100.5)
    (it,) = explain([line("lost", HUNG)], [stop], LIMITS)
    assert (it.kill, it.bystander) == (stop, True)


def test_a_stopped_producer_cannot_record_in_time_and_gets_as_long_as_it_was_stopped() -> None:
    slow = replace(CRASHED, started=90.0)
    hit, stop = kill(95.0, "slot", "KILL"), kill(95.1, "producer", "STOP", until=99.0)
    assert explain([slow], [hit], LIMITS)[0].kill is None
    assert explain([slow], [hit, stop], LIMITS)[0].kill == hit


def test_a_stopped_fork_server_tells_its_own_producer_late_that_a_slot_died() -> None:
    it, other = (kill(94.6, "fork server", "STOP", worker, until=100.0) for worker in (P, Q))
    for stop, explained in ((it, 1), (other, 0)):
        (found,) = explain([replace(CRASHED, started=95.0)], [stop, kill(96.5, "slot", "KILL")], LIMITS)
        assert bool(found.kill) == explained


def test_producers_drain_when_their_master_dies_unless_one_is_stopped() -> None:
    died, master = line("lost", DIED), kill(99.0, "master", "KILL", P, Q)
    stop = kill(98.0, "producer", "STOP", Q, until=102.0)
    assert explain([died], [master], LIMITS)[0].kill is None
    assert explain([died], [master, stop], LIMITS)[0].kill == master
    assert explain([died], [master, replace(stop, until=98.5)], LIMITS)[0].kill is None


def test_a_container_that_stops_waits_for_no_producer_whose_master_was_killed() -> None:
    died, master = line("lost", DIED), kill(99.0, "master", "KILL", P, Q)
    stop = kill(98.0, "init", "TERM", "host.")
    assert explain([died], [stop], LIMITS)[0].kill is None
    assert explain([died], [stop, master], LIMITS)[0].kill == master
    for other in (replace(stop, workers=("other.",)), replace(stop, at=80.0), replace(stop, at=99.5)):
        assert explain([died], [other, master], LIMITS)[0].kill is None


def test_two_stops_at_once_are_not_counted_twice() -> None:
    stops = [kill(1.0, "producer", "STOP", until=3.0), kill(2.0, "producer", "STOP", until=4.0)]
    assert judge.stopped_between(stops, 0.0, 10.0) == 3.0
    assert judge.stopped_between(stops, 2.5, 3.5) == 1.0


def test_a_failure_that_was_asked_for_needs_no_hit() -> None:
    assert explain([line("raised", "RuntimeError: attempt 1 fails as asked"), line("succeeded", "")], [], LIMITS) == []


def test_a_stop_ends_with_its_own_continuation() -> None:
    hit = {"event": "kill", "at": 1.0, "pid": 7, "role": "slot", "signal": "STOP", "workers": [P]}
    on = {"event": "continued", "at": 3.0, "pid": 7, "since": 1.0}
    assert [k.until for k in judge.kills_of([hit, on])] == [3.0]
    assert [k.until for k in judge.kills_of([hit, on | {"since": 0.5}])] == [float("inf")]


def test_recovery_is_from_the_kill_to_the_next_start() -> None:
    lost, again = line("lost", DIED), replace(line("succeeded", ""), started=100.5, finished=101.0)
    hit = kill(99.5, "producer", "KILL")
    history = {"a": [lost, again]}
    (it,) = judge.recoveries(explain(history["a"], [hit], LIMITS), history, [hit])
    assert (it.seconds, it.undisturbed) == (1.0, True)
    others = [hit, kill(99.0, "producer", "STOP", Q, until=102.0)]
    (it,) = judge.recoveries(explain(history["a"], others, LIMITS), history, others)
    assert not it.undisturbed


def document(state: str, result: Any, *outcomes: str, attempt: int = 1) -> dict[str, Any]:
    history = [{"outcome": outcome} for outcome in outcomes]
    error = {"type": "crashed"} if state == "failed" else None
    return {
        "state": state,
        "result": result,
        "error": error,
        "attempt": attempt,
        "attempts": 10,
        "history": history,
    }


def test_an_end_must_be_the_one_that_was_asked_for() -> None:
    good = document("succeeded", 7, "lost", "succeeded")
    assert judge.wrong(good, "noop", {"job_id": 7}) == ""
    assert judge.wrong(good, "noop", {"job_id": 8})
    assert judge.wrong(document("succeeded", 7, "succeeded", "succeeded"), "noop", {"job_id": 7})
    assert judge.wrong(document("succeeded", 7, "succeeded", "lost"), "noop", {"job_id": 7})
    assert judge.wrong(document("succeeded", 2, "succeeded"), "flaky", {"failures": 2})
    assert judge.wrong(document("failed", None, "crashed"), "noop", {"job_id": 7})
    assert judge.wrong(document("failed", None, *["crashed"] * 3), "noop", {"job_id": 7}) == ""
    assert judge.wrong(document("failed", None, "raised", attempt=10), "flaky", {"failures": 2}) == ""


def some_findings(**changes: Any) -> Findings:
    hit = kill(99.9, "slot", "KILL")
    it = Findings(
        seed=7,
        engine="native",
        seconds=20.0,
        sent=10,
        answers=Counter(accepted=8, refused=1, unknown=1),
        reasons=Counter({"refused: no connection": 1}),
        states=Counter(succeeded=8),
        lost=[],
        wrong=[],
        false_refusals=[],
        twice=[],
        explained=explain([CRASHED], [hit], LIMITS),
        recoveries=[],
        orphans=[],
        store=Store("ok"),
        kills=[hit],
    )
    return replace(it, **changes)


def test_the_report_says_what_was_found() -> None:
    text = findings.report(some_findings())
    assert text.startswith("seed 7, native, 20 s of chaos, 1 hits\n")
    assert "sent 10 = accepted 8 + refused 1 + unknown 1" in text
    assert "accepted 8 = succeeded 8 + failed 0 + lost 0" in text
    assert "unexplained 0" in text
    assert text.endswith("The promises hold.")


@pytest.mark.parametrize(
    "changes",
    [
        {"lost": ["x (404)"]},
        {"wrong": ["x: twice"]},
        {"false_refusals": [3]},
        {"twice": [3]},
        {"explained": explain([CRASHED], [], LIMITS)},
        {"orphans": ["12 after the stop"]},
        {"store": Store("row 3 missing from index")},
        {"store": Store("ok", open=1)},
        {"store": Store("ok", miscounted=["queued: 1 told, 0 there"])},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_one_broken_promise_is_enough_and_is_named(changes: dict[str, Any]) -> None:
    it = some_findings(**changes)
    assert it.verdict() is Exit.LOST
    assert it.broken()[0] in findings.report(it)
    assert json.loads(json.dumps(it.figures()))["exit"] == 1
    assert some_findings().verdict() is Exit.OK


def test_the_database_is_looked_at(tmp_path: Path) -> None:
    db = apsw.Connection(str(tmp_path / "backlog.db"))
    db.execute("CREATE TABLE jobs (args TEXT, state TEXT); CREATE TABLE counts (state TEXT, n INTEGER)")
    for args, state in (('{"job_id": 4}', "succeeded"), ('{"job_id": 4}', "queued"), ('{"failures": 1}', "failed")):
        db.execute("INSERT INTO jobs VALUES (?, ?)", (args, state))
    db.execute("INSERT INTO counts VALUES ('succeeded', 1), ('queued', 2), ('failed', 1), ('running', 0)")
    db.close()
    store = findings.examine(tmp_path / "backlog.db")
    assert (store.integrity, store.open, store.numbers) == ("ok", 1, Counter({4: 2}))
    assert store.miscounted == ["queued: 2 told, 1 there"]
    (tmp_path / "backlog.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    assert findings.examine(tmp_path / "backlog.db").integrity != "ok"


def test_a_seed_repeats_the_choices_and_the_wishes() -> None:
    def first(seed: int) -> list[killer.Choice]:
        return list(islice(killer.choices(seed, WEIGHTS, 3.0), 200))

    assert first(1) == first(1) != first(2)
    assert {choice.role for choice in first(1)} == set(WEIGHTS)
    assert any(choice.length > 3.0 for choice in first(1) if choice.signal == "STOP")
    assert [ledger.wish(1, n) for n in range(50)] == [ledger.wish(1, n) for n in range(50)]
    assert {ledger.wish(1, n).job for n in range(50)} == {"noop", "sleep", "flaky"}


def test_the_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for number in range(2):  # as two processes do
        it = ledger.Ledger(str(path))
        it.note("sent", number=number)
        it.close()
    assert [(event["event"], event["number"]) for event in ledger.read(path)] == [("sent", 0), ("sent", 1)]


SERVE = ["python", "-m", "service", "serve"]
FORKSERVER = ["python", "-c", "from multiprocessing.forkserver import main; main(5, 6, [])"]
TRACKER = ["python", "-c", "from multiprocessing.resource_tracker import main;main(4)"]


@pytest.mark.parametrize(
    ("words", "above", "role"),
    [
        (["/sbin/docker-init", "--", "nginx"], "", "init"),
        (["python", "/x/bin/supervisord", "-c", "y"], "", "supervisord"),
        (["python", "docker/entrypoint.py"], "init", "supervisord"),
        (["python", "docker/exit_on_fatal.py"], "supervisord", "listener"),
        (SERVE, "supervisord", "master"),
        (SERVE, "master", "producer"),
        (SERVE, "producer", "other"),  # about to become a fork server
        (SERVE, "init", "orphan"),
        (TRACKER, "producer", "tracker"),
        (FORKSERVER, "producer", "fork server"),
        (FORKSERVER, "fork server", "slot"),
        (FORKSERVER, "master", "orphan"),
        (["nginx: master process nginx"], "supervisord", "nginx master"),
        (["nginx: worker process"], "nginx master", "nginx worker"),
    ],
)
def test_a_process_is_known_by_its_command_line_and_its_parent(words: list[str], above: str, role: str) -> None:
    assert role_of(words, above) == role


@pytest.mark.parametrize(("seconds", "undisturbed", "broken"), [(1.9, True, 0), (2.1, True, 1), (4.0, False, 0)])
def test_a_job_that_waited_longer_than_promised_is_a_broken_promise(
    seconds: float, undisturbed: bool, broken: int
) -> None:
    assert len(some_findings(recoveries=[Recovery("a", seconds, undisturbed)]).broken()) == broken


def test_the_audit_knows_what_the_service_says_and_how_often_it_lets_a_job_crash() -> None:
    assert course.NOT_BEGUN.reason.startswith(judge.NOT_BEGUN)
    assert retry.CRASHES == judge.CRASHES
