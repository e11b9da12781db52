"""The client against a small real server: what it repeats, for how long, and what it makes of each answer."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from service.client import (
    Client,
    Conflict,
    Job,
    JobFailed,
    NotAllowed,
    NotFound,
    Receipt,
    Refused,
    Removed,
    Submission,
    TimedOut,
    Unavailable,
    Unexpected,
)
from service.client.client import AHEAD
from service.client.transport import Transport
from tests.scripted import ENOUGH, HANG_UP, Asked, Reply, Script, script
from tests.support import ROOT, free_port, wait_until

ACCEPTED = Reply(202, {"id": "j1", "job": "noop", "state": "queued", "durability": "fsync", "position": 3})
FULL = Reply(503, {"title": "The backlog is full", "status": 503, "detail": "try again later"})


@pytest.fixture
def stack() -> Iterator[Script]:
    with script() as server:
        yield server


@pytest.fixture
def client(stack: Script) -> Iterator[Client]:
    with Client(stack.url, retry_for=20, connections=2) as it:
        yield it


def job(id: str, state: str = "succeeded", **members: Any) -> Reply:
    return Reply(200, {"id": id, "job": "noop", "state": state, "result": None, **members})


def keys(stack: Script) -> list[str]:
    return [asked.headers["Idempotency-Key"] for asked in stack.asked]


# what is sent, what comes back


def test_a_submit_sends_what_was_asked_for_and_nothing_else(stack: Script, client: Client) -> None:
    stack.replies(ACCEPTED)
    receipt = client.submit("noop", {"job_id": 1}, priority=5, run_at=datetime(2030, 1, 1, tzinfo=UTC), attempts=None)
    assert (receipt.id, receipt.state, receipt.durability, receipt.position) == ("j1", "queued", "fsync", 3)
    assert not receipt.replayed
    (asked,) = stack.asked
    assert (asked.method, asked.path, asked.headers["Content-Type"]) == ("POST", "/jobs", "application/json")
    assert asked.body == {"job": "noop", "args": {"job_id": 1}, "priority": 5, "run_at": "2030-01-01T00:00:00+00:00"}


def test_each_submit_has_a_key_of_its_own_and_yours_is_kept(stack: Script, client: Client) -> None:
    stack.replies(ACCEPTED, ACCEPTED, ACCEPTED._replace(headers={"Idempotency-Replayed": "true"}))
    client.submit("noop")
    client.submit("noop")
    assert client.submit("noop", idempotency_key='order "17"').replayed
    assert len(set(keys(stack))) == 3
    assert keys(stack)[2] == r'"order \"17\""'


@pytest.mark.parametrize("args", [{"x": float("nan")}, {"x": object()}, {"x": datetime(2030, 1, 1)}])
def test_what_is_not_json_is_not_sent(stack: Script, client: Client, args: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        client.submit("noop", args)
    with pytest.raises(ValueError, match="one line of printable ASCII"):
        client.submit("noop", idempotency_key="a\nb")
    assert stack.asked == []


@pytest.mark.parametrize("id", ["", "..", ".", "a/b", "a?b", "a b", "\n", "x" * 129])
def test_an_id_that_would_be_another_address_is_not_sent(stack: Script, client: Client, id: str) -> None:
    for ask in (client.status, client.wait, client.cancel, client.retry):
        with pytest.raises(ValueError, match="no job's id"):
            ask(id)
    assert stack.asked == []


def test_a_job_comes_with_its_times_its_history_and_what_a_newer_server_adds(stack: Script, client: Client) -> None:
    history = [{"attempt": 1, "outcome": "raised", "reason": "ValueError: no", "cpu_seconds": 0.1, "moon": "full"}]
    error = {"type": "ValueError", "message": "no", "traceback": None}
    stack.replies(job("j1", "failed", started_at="2030-01-01T00:00:00Z", history=history, error=error, moon="full"))
    seen = client.status("j1")
    assert seen.started_at == datetime(2030, 1, 1, tzinfo=UTC)
    assert (seen.history[0].outcome, seen.history[0].reason) == ("raised", "ValueError: no")
    assert seen.document["moon"] == "full"
    with pytest.raises(JobFailed, match=r"^job j1 \(noop\) is failed: ValueError: no$") as caught:
        seen.value()
    assert caught.value.job is seen


def test_a_large_number_comes_back_as_it_is(stack: Script, client: Client) -> None:
    stack.replies(job("j1", result=2**100))
    assert client.status("j1").value() == 2**100


# what is repeated


@pytest.mark.parametrize("status", [429, 502, 503, 504, 507, 409])
def test_a_submit_that_is_not_settled_is_repeated_with_the_same_key(stack: Script, client: Client, status: int) -> None:
    stack.replies(Reply(status, {"title": "not now"}), Reply(status, "<html>"), ACCEPTED)
    assert client.submit("noop", {"job_id": 1}).id == "j1"
    assert len(stack.asked) == 3
    assert len(set(keys(stack))) == 1
    assert [asked.body for asked in stack.asked] == [{"job": "noop", "args": {"job_id": 1}}] * 3


@pytest.mark.parametrize("lost", [HANG_UP, ACCEPTED._replace(cut=True)], ids=["no answer", "half an answer"])
def test_a_lost_answer_is_asked_for_again_with_the_same_key(stack: Script, client: Client, lost: Reply) -> None:
    stack.replies(lost, lost, ACCEPTED)
    assert client.submit("noop").id == "j1"
    assert (len(stack.asked), len(set(keys(stack)))) == (3, 1)


def test_an_answer_that_is_too_late_is_asked_for_again_with_the_same_key(stack: Script) -> None:
    def first_hangs(asked: Asked, n: int) -> Reply:
        if n == 0:
            stack.released.wait(ENOUGH)
        return ACCEPTED

    stack.answer = first_hangs
    with Client(stack.url, timeout=0.5) as client:
        assert client.submit("noop").id == "j1"
    assert (len(stack.asked), len(set(keys(stack)))) == (2, 1)


def test_a_server_that_is_not_there_yet_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service.client")
    port = free_port()
    with Client(f"http://127.0.0.1:{port}") as client:
        receipts: list[Receipt] = []
        thread = threading.Thread(target=lambda: receipts.append(client.submit("noop")))
        thread.start()
        wait_until(lambda: caplog.messages, "a first attempt")
        with script(port) as stack:
            stack.replies(ACCEPTED)
            thread.join(ENOUGH)
    assert [receipt.id for receipt in receipts] == ["j1"]
    assert caplog.messages[0].startswith("no connection; trying again, for 60 s at most")


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(stack: Script, client: Client, form: str) -> None:
    def full(asked: Asked, n: int) -> Reply:
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        return ACCEPTED if n else FULL._replace(headers={"Retry-After": "1" if form == "seconds" else later})

    stack.answer = full
    client.submit("noop")
    first, second = stack.asked
    assert second.at - first.at >= (1.0 if form == "seconds" else 0.9)  # a date has whole seconds only


def test_a_retry_after_that_means_nothing_is_no_reason_to_wait_or_to_fail(stack: Script, client: Client) -> None:
    stack.replies(*[FULL._replace(headers={"Retry-After": text}) for text in ("soon", "-5", "")], ACCEPTED)
    assert client.submit("noop").id == "j1"


def test_when_the_server_asks_for_more_time_than_there_is_nobody_waits(stack: Script, client: Client) -> None:
    stack.replies(FULL._replace(headers={"Retry-After": "3600"}))
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"^HTTP 503 The backlog is full: try again later$") as caught:
        client.submit("noop")
    assert time.monotonic() - began < 10
    assert (caught.value.unknown, caught.value.problem["title"]) == (False, "The backlog is full")
    assert len(stack.asked) == 1


@pytest.mark.parametrize("lost", [HANG_UP, Reply(504)], ids=["no answer", "504"])
def test_when_time_is_up_it_says_whether_it_may_have_been_done(stack: Script, lost: Reply) -> None:
    stack.replies(lost, FULL)
    with Client(stack.url, retry_for=0.5) as client, pytest.raises(Unavailable) as caught:
        client.submit("noop")
    assert caught.value.unknown  # of the first, although the last one was refused
    assert len(stack.asked) > 1


def test_without_patience_it_asks_once(stack: Script) -> None:
    stack.replies(FULL)
    with Client(stack.url, retry_for=0) as client, pytest.raises(Unavailable):
        client.submit("noop")
    assert len(stack.asked) == 1


REFUSALS: dict[int, type[Exception]] = dict.fromkeys((400, 413, 415, 422), Refused) | {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    410: Removed,
    301: Unexpected,
    500: Unexpected,
}


@pytest.mark.parametrize(("status", "kind"), REFUSALS.items())
def test_what_would_be_refused_again_is_not_repeated(
    stack: Script, client: Client, status: int, kind: type[Exception]
) -> None:
    stack.replies(Reply(status, {"title": "No", "detail": "not that"}, {"Location": f"{stack.url}/elsewhere"}))
    for ask in (lambda: client.submit("noop"), lambda: client.status("j1"), lambda: client.cancel("j1")):
        before = len(stack.asked)
        with pytest.raises(kind, match="not that") as caught:
            ask()
        assert type(caught.value) is kind
        assert len(stack.asked) == before + 1


@pytest.mark.parametrize(
    "body",
    ["<html>", "[]", {"id": 1, "state": "queued"}, {"id": "j2", "state": "queued"}, {"id": "j1"}, "[" * 100_000],
)
def test_an_answer_that_is_no_stormdrains_says_so(stack: Script, client: Client, body: Any) -> None:
    stack.replies(Reply(200, body))
    with pytest.raises(Unexpected):
        client.status("j1")
    assert len(stack.asked) == 1


def test_when_closed_it_does_not_try_again(stack: Script, client: Client) -> None:
    stack.answer = lambda asked, n: (client.close(), FULL)[1]
    with pytest.raises(Unavailable):
        client.submit("noop")
    assert len(stack.asked) == 1


# who is asked


def test_the_key_is_sent_and_the_environment_is_the_default(stack: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORMDRAIN_URL", stack.url + "/")
    monkeypatch.setenv("STORMDRAIN_KEY", "me.secret")
    stack.replies(ACCEPTED)
    for key in (None, "other.secret", ""):
        with Client(key=key) as client:
            client.submit("noop")
    assert [asked.headers.get("Authorization") for asked in stack.asked] == [
        "Bearer me.secret",
        "Bearer other.secret",
        None,
    ]


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://x", "http://", "http://x:99999", "http://x?a", "http://a:b@x"]
)
def test_an_address_that_nobody_can_be_asked_at_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="an address such as"):
        Client(url)


def test_a_key_that_would_be_two_headers_is_refused() -> None:
    with pytest.raises(ValueError, match="one line"):
        Client("http://127.0.0.1", key="a\r\nX-Evil: 1")


def test_a_redirect_is_not_followed_and_hands_no_key_on(stack: Script) -> None:
    with script() as other, Client(stack.url, key="me.secret") as client:
        stack.replies(Reply(307, {}, {"Location": f"{other.url}/jobs"}))
        with pytest.raises(Unexpected, match="307"):
            client.submit("noop")
        assert other.asked == []


def test_loopback_is_never_asked_of_a_proxy_and_netrc_takes_no_keys_place(
    stack: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login mallory password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    stack.replies(ACCEPTED)
    with Client(stack.url, key="me.secret") as client:
        client.submit("noop")
    assert stack.asked[0].headers["Authorization"] == "Bearer me.secret"


@pytest.mark.parametrize("environment", [True, False])
def test_another_host_is_asked_of_the_proxy_unless_the_environment_shall_not_count(
    stack: Script, monkeypatch: pytest.MonkeyPatch, environment: bool
) -> None:
    monkeypatch.setenv("http_proxy", stack.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    stack.replies(Reply(200, {}))
    transport = Transport("http://stormdrain.invalid", environment=environment, timeout=5)
    try:
        transport.send("GET", "/healthz")
    except OSError:
        assert not environment
    transport.close()
    assert [asked.path for asked in stack.asked] == ["http://stormdrain.invalid/healthz"] * environment


# cancel, retry, list


def test_a_cancel_whose_answer_was_lost_is_found_done(stack: Script, client: Client) -> None:
    stack.replies(HANG_UP, Reply(409, {"title": "ended"}), job("j1", "cancelled"))
    assert client.cancel("j1").state == "cancelled"
    assert [asked.method for asked in stack.asked] == ["DELETE", "DELETE", "GET"]


def test_what_has_ended_cannot_be_cancelled(stack: Script, client: Client) -> None:
    stack.replies(Reply(409, {"title": "ended"}), job("j1"))
    with pytest.raises(Conflict):
        client.cancel("j1")


def test_a_retry_whose_answer_was_lost_is_found_done(stack: Script, client: Client) -> None:
    stack.replies(HANG_UP, Reply(409, {"title": "not failed"}), job("j1", "queued"))
    assert client.retry("j1").state == "queued"
    assert [asked.path for asked in stack.asked] == ["/jobs/j1/retry", "/jobs/j1/retry", "/jobs/j1"]


def test_what_is_queued_already_cannot_be_retried(stack: Script, client: Client) -> None:
    stack.replies(Reply(409, {"title": "not failed"}))
    with pytest.raises(Conflict, match="not failed"):
        client.retry("j1")
    assert len(stack.asked) == 1


def test_a_retry_of_many_is_repeated_only_where_nothing_was_done(stack: Script, client: Client) -> None:
    stack.replies(FULL, Reply(200, {"retried": 7}), HANG_UP)
    assert client.retry_all("failed", "noop") == 7
    assert stack.asked[0].body == {"state": "failed", "job": "noop"}
    with pytest.raises(Unavailable) as caught:
        client.retry_all()
    assert caught.value.unknown
    assert len(stack.asked) == 3


def test_a_list_is_asked_for_by_the_page_and_only_as_far_as_it_is_read(stack: Script, client: Client) -> None:
    def page(asked: Asked, n: int) -> Reply:
        jobs = [{"id": f"j{n}-{k}", "state": "failed", "job": "noop"} for k in range(2)]
        return Reply(200, {"jobs": jobs, "next": f"/jobs?cursor={n}" if n < 2 else None})

    stack.answer = page
    jobs = client.jobs("failed", "no op", page=2)
    assert [next(jobs).id, next(jobs).id] == ["j0-0", "j0-1"]
    assert [asked.path for asked in stack.asked] == ["/jobs?state=failed&job=no+op&limit=2"]
    assert len(list(jobs)) == 4
    assert [asked.path for asked in stack.asked[1:]] == ["/jobs?cursor=0", "/jobs?cursor=1"]


@pytest.mark.parametrize("answer", [{"jobs": [], "next": "http://elsewhere/jobs"}, {"jobs": [], "next": 7}, {}])
def test_a_list_that_leads_elsewhere_is_not_followed(stack: Script, client: Client, answer: Any) -> None:
    stack.replies(Reply(200, answer))
    with pytest.raises(Unexpected):
        list(client.jobs())
    assert len(stack.asked) == 1


# wait


def test_a_wait_is_held_by_the_server_and_asks_until_the_job_has_ended(stack: Script, client: Client) -> None:
    stack.replies(job("j1", "queued"), job("j1", "running"), job("j1", result=5))
    assert client.wait("j1").value() == 5
    assert [asked.path for asked in stack.asked] == ["/jobs/j1?wait=10"] * 3
    assert stack.asked[-1].at - stack.asked[0].at > 0.3  # a server that does not hold it is not asked without a pause


def test_a_wait_that_is_too_long_names_the_job(stack: Script, client: Client) -> None:
    stack.replies(job("j1", "running"))
    with pytest.raises(TimedOut, match=r"^job j1 has not ended within 0\.5 s$") as caught:
        client.wait("j1", timeout=0.5)
    assert caught.value.open == ("j1",)


# many


def numbered(asked: Asked, n: int) -> Reply:
    """Accepted under the number that it carries."""
    return Reply(202, {"id": f"j{asked.body['args']['job_id']}", "job": "noop", "state": "queued"})


def refusing(odd: Callable[[int], bool]) -> Callable[[Asked, int], Reply]:
    def answer(asked: Asked, n: int) -> Reply:
        refuse = odd(asked.body["args"]["job_id"])
        return Reply(422, {"title": "does not fit"}) if refuse else numbered(asked, n)

    return answer


def submissions(many: int) -> Iterator[Submission]:
    return (Submission("noop", {"job_id": number}) for number in range(many))


def test_many_answers_come_in_the_order_of_their_jobs_and_a_refusal_spoils_no_other(
    stack: Script, client: Client
) -> None:
    stack.answer = refusing(lambda number: number % 7 == 3)
    outcomes = list(client.submit_many(submissions(50)))
    assert [each.id if isinstance(each, Receipt) else None for each in outcomes] == [
        None if number % 7 == 3 else f"j{number}" for number in range(50)
    ]
    refused = [each for each in outcomes if isinstance(each, Refused)]
    assert [each.submission.args["job_id"] for each in refused if each.submission] == list(range(3, 50, 7))


def test_many_are_taken_only_a_little_ahead(stack: Script, client: Client) -> None:
    stack.answer = numbered
    taken = count()
    endless = (Submission("noop", {"job_id": next(taken)}) for _ in count())
    outcomes = client.submit_many(endless)
    for _ in range(5):
        next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert next(taken) <= 5 + AHEAD * 2


def test_a_refusal_among_those_that_are_followed_is_raised(stack: Script, client: Client) -> None:
    stack.answer = refusing(lambda number: number == 5)
    with pytest.raises(Refused, match="422 does not fit"):
        list(client.results(client.submit_many(submissions(10))))


def test_results_come_as_jobs_end_each_once(stack: Script, client: Client) -> None:
    ended: list[str] = []

    def look(asked: Asked, n: int) -> Reply:
        id = asked.path.removeprefix("/jobs/").partition("?")[0]
        return job(id) if id in ended else job(id, "running")

    stack.answer = look
    results = client.results(["a", "b", "c", "b"])
    for id in ("c", "a", "b"):
        ended.append(id)
        assert next(results).id == id
    assert list(results) == []


def test_a_job_that_cannot_be_shown_hides_no_other(stack: Script, client: Client) -> None:
    replies = {"a": Reply(404), "b": Reply(410), "c": job("c"), "d": FULL}

    def look(asked: Asked, n: int) -> Reply:
        id = asked.path.removeprefix("/jobs/").partition("?")[0]
        return job(id) if id == "d" and n > 4 else replies[id]

    stack.answer = look
    assert {seen.id: seen.state for seen in client.results(["a", "b", "c", "d"])} == {
        "a": "missing",
        "b": "removed",
        "c": "succeeded",
        "d": "succeeded",
    }


def test_results_that_take_too_long_name_what_is_open(stack: Script, client: Client) -> None:
    stack.answer = lambda asked, n: job(asked.path[6:8], "succeeded" if "j1" in asked.path else "running")
    results = client.results([f"j{number}" for number in range(1, 6)], timeout=0.5)
    assert next(results).id == "j1"
    with pytest.raises(TimedOut, match=r"^4 jobs have not ended within") as caught:
        next(results)
    assert set(caught.value.open) == {"j2", "j3", "j4", "j5"}


def test_nothing_to_follow_is_no_request(stack: Script, client: Client) -> None:
    assert list(client.results([])) == []
    assert list(client.submit_many([])) == []
    assert stack.asked == []


def test_a_value_of_a_job_that_has_not_ended_is_none() -> None:
    with pytest.raises(JobFailed, match=r"^job j1 \(noop\) is running$"):
        Job(id="j1", state="running", job="noop").value()


def test_without_requests_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['requests'] = None; "
    importing, calling = (
        subprocess.run([sys.executable, "-c", code + rest], cwd=ROOT, capture_output=True, text=True, timeout=ENOUGH)
        for rest in (
            "import service.client",
            "sys.argv[1:] = ['list']; from service.__main__ import main; sys.exit(main())",
        )
    )
    assert "ModuleNotFoundError: the client needs requests: pip install 'stormdrain[client]'" in importing.stderr
    assert (calling.returncode, calling.stderr) == (
        2,
        "stormdrain: this needs requests: pip install 'stormdrain[client]'\n",
    )
