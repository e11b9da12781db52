"""Whatever is sent, each answer is a documented one, in time, and nothing is stored that was not accepted.

Every request of the corpus, through nginx as the world sends it, and to a server alone as nginx would."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import apsw
import pytest
import requests

from tests.hostile.corpus import GROUPS, HIDE, MARK, Case, chunk
from tests.hostile.wire import Answer, Connect, Exchange, exchange, to_port, to_socket
from tests.native import Stack, serves
from tests.support import LIVE, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

TIME = 17.0  # seconds; who waits for the rest of a request waits 10, and of lines 15
SLACK = 18.0  # seconds; the machine is shared
AT_ONCE = 16
BUSY = b'"type":"/problems/store-busy"'  # an honest answer of a machine that has more to do; so it is tried again
TRIES = 4
FLAT = 6 << 20  # bytes by which the largest producer may grow in six rounds, of almost 1,000 requests each
ROUNDS = 10
ALIKE = 3  # rounds of which the smallest counts: a large body may be on its way to be freed in any of them
NEVER = re.compile(rb"<html|<body|<center>|Traceback|\.py\b|nginx/|Tornado", re.IGNORECASE)

CASES = [(group, case) for group, those in GROUPS.items() for case in those()]
QUICK = [(group, case) for group, case in CASES if "-" not in case.want]  # who leaves something out waits 10 s

numbers = itertools.count(1)


@dataclass
class Try:
    """One request of the corpus, sent with a mark of its own."""

    group: str
    case: Case
    number: int
    exchange: Exchange
    again: bool = False  # the machine was busy, and the case was tried again

    @property
    def busy(self) -> set[str]:
        """What may come back as well."""
        return {"503"} if self.again else set()

    @property
    def accepted(self) -> int:
        return sum(accepted(answer) for answer in self.exchange.answers)


def accepted(answer: Answer) -> int:
    """How many jobs it says that it has accepted."""
    if answer.headers.get("content-type") == "application/x-ndjson":
        return sum(line.startswith(b'{"id":') for line in answer.body.splitlines())
    waited = "preference-applied" in answer.headers
    return answer.status == 202 or (answer.status == 200 and (waited or answer.body.endswith(b" add\n")))


def mark(number: int, hidden: bool = False) -> bytes:
    return b"%c%05d" % (b"h" if hidden else b"m", number)


def attempt(group: str, case: Case, connect: Connect) -> Try:
    number = next(numbers)
    request = case.request.replace(MARK, mark(number)).replace(HIDE, mark(number, hidden=True))
    return Try(group, case, number, exchange(connect, request, TIME + SLACK))


def attempts(group: str, case: Case, connect: Connect) -> list[Try]:
    tries = [attempt(group, case, connect)]
    while BUSY in tries[-1].exchange.received and len(tries) < TRIES:
        tries[-1].again = True
        tries.append(attempt(group, case, connect))
    return tries


def round_of(cases: list[tuple[str, Case]], connect: Connect) -> list[Try]:
    with ThreadPoolExecutor(AT_ONCE) as clients:
        return list(itertools.chain(*clients.map(lambda pair: attempts(*pair, connect), cases)))


def stored(stack: Stack) -> Counter[str]:
    """How many jobs there are for each mark."""
    db = apsw.Connection(str(stack.folder / "data/backlog.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return Counter(
            found[0] for (args,) in db.execute("SELECT args FROM jobs") if (found := re.findall(r"[mh]\d{5}", args))
        )
    finally:
        db.close()


def jobs(stack: Stack) -> int:
    return sum(stack.stats()["states"].values())


def complaint(it: Try, alone: bool, stored: Counter[str]) -> str:
    """What is wrong with it, or nothing."""
    if stored[mark(it.number, hidden=True).decode()]:
        return "a hidden request was executed"
    if MARK in it.case.request and stored[mark(it.number).decode()] != it.accepted:
        return f"{it.accepted} accepted, {stored[mark(it.number).decode()]} stored"
    got, received, wanted = it.exchange.statuses, it.exchange.received, {*it.case.wanted(alone), *it.busy}
    if set(got) - wanted:
        return f"{' '.join(got)} instead of {' or '.join(sorted(wanted))}"
    if not it.exchange.closed:
        return f"not closed within {it.exchange.seconds:.1f} s"
    if NEVER.search(received):
        return "says more than it should"
    if got == ["0.9"]:
        json.loads(received)
    return next(filter(None, map(unlike_a_problem, it.exchange.answers)), "")


def unlike_a_problem(answer: Answer) -> str:
    """What is wrong with an answer, or nothing."""
    if "set-cookie" in answer.headers:
        return "a header of the client's"
    if answer.status < 400:
        return ""
    if answer.headers.get("content-type") != "application/problem+json":
        return f"{answer.status} of type {answer.headers.get('content-type')}"
    if not answer.body:
        return "" if "content-length" in answer.headers else "nothing"  # of a HEAD
    problem = json.loads(answer.body)
    if problem["status"] != answer.status or not problem["type"].startswith("/problems/") or not problem["instance"]:
        return f"a problem that is none: {problem}"
    return ""


def table(tries: list[Try]) -> str:
    lines = [f"{'group':20} tried  came back"]
    for group, those in itertools.groupby(tries, lambda it: it.group):
        same = list(those)
        came = Counter(status for it in same for status in it.exchange.statuses)
        lines.append(f"{group:20} {len(same):5}  " + ", ".join(f"{status}: {n}" for status, n in sorted(came.items())))
    came = Counter(status for it in tries for status in it.exchange.statuses)
    lines.append(f"{'all':20} {len(tries):5}  " + ", ".join(f"{status}: {n}" for status, n in sorted(came.items())))
    return "\n".join(lines)


def judge(stack: Stack, connect: Connect, alone: bool) -> None:
    before = jobs(stack)
    tries = round_of(CASES, connect)
    print(f"\n{'the server alone' if alone else 'through nginx'}\n{table(tries)}")
    found = stored(stack)
    complaints = {f"{it.group}: {it.case.name}": said for it in tries if (said := complaint(it, alone, found))}
    assert complaints == {}
    assert jobs(stack) - before == sum(it.accepted for it in tries)


def test_through_nginx_each_answer_is_a_documented_one_and_nothing_hidden_is_stored(front: Stack) -> None:
    judge(front, to_port(front.port), alone=False)


def test_the_server_alone_takes_no_more_than_it_does_behind_nginx(front: Stack) -> None:
    judge(front, to_socket(front.folder / "run/server_0.sock"), alone=True)


LINES = b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("alone", [False, True])
def test_lines_that_are_no_http_from_the_start_are_refused(front: Stack, alone: bool) -> None:
    connect = to_socket(front.folder / "run/server_0.sock") if alone else to_port(front.port)
    (answer,) = exchange(connect, LINES + b"zz\r\n", TIME + SLACK).answers
    assert answer.status == 400
    assert not unlike_a_problem(answer)


@pytest.mark.parametrize("alone", [False, True])
def test_of_lines_before_what_is_no_http_nobody_says_that_they_are_not_stored(front: Stack, alone: bool) -> None:
    before = jobs(front)
    connect = to_socket(front.folder / "run/server_0.sock") if alone else to_port(front.port)
    with connect() as connection:
        connection.settimeout(TIME + SLACK)
        connection.sendall(LINES + chunk(b'{"job":"noop"}\n'))
        wait_until(lambda: jobs(front) == before + 1, "the line is stored")
        connection.sendall(b"zz\r\n")
        with suppress(ConnectionResetError):
            assert connection.recv(65536) == b""


def memory(stack: Stack) -> dict[int, int]:
    """Bytes that each producer has for itself, once nothing runs."""
    try:
        wait_until(lambda: not {*LIVE} & {state for state, n in stack.stats()["states"].items() if n}, "all ran")
    except AssertionError:
        print(evidence(stack))
        raise
    producers = [child for server in stack.servers() for child in server.children() if serves(child)]
    return {it.pid: it.memory_full_info().uss for it in producers}


def evidence(stack: Stack) -> str:
    """What there is to know of jobs that do not end."""
    live = [requests.get(f"{stack.url}/jobs", {"state": state, "limit": 20}, timeout=10).text for state in LIVE]
    logs = [f"{log}:\n{log.read_text()[-4000:]}" for log in sorted((stack.folder / "log").glob("server_*.log"))]
    return "\n".join([str(stack.stats()), *live, *logs])


def test_the_memory_of_the_producers_stays_flat(front: Stack) -> None:
    """The largest counts: which producer gets how much is chance, and one that has idled is small."""
    sizes = []
    for _ in range(ROUNDS):
        round_of(QUICK, to_port(front.port))
        sizes.append(memory(front))
    print(
        "\nMB of each producer after each round: " + "; ".join(f"{[n >> 20 for n in size.values()]}" for size in sizes)
    )
    assert {*sizes[0]} == {*sizes[-1]}, "a producer was replaced"
    largest = [max(size.values()) for size in sizes]
    assert min(largest[-ALIKE:]) - min(largest[1 : 1 + ALIKE]) < FLAT
