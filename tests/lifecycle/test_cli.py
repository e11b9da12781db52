"""The command line, as processes, against a real server; and against one that sends what a terminal would obey."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service import exits
from tests.scripted import Reply, script
from tests.support import ROOT, Server, server, wait_until

ENOUGH = 60.0  # seconds
ID = r"[0-9a-f]{8}-[0-9a-f-]{27}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("cli"), SLOTS="4", PRODUCERS="2") as it:
        yield it


def environment(url: str) -> dict[str, str]:
    return os.environ | {"STORMDRAIN_URL": url, "PYTHONPATH": str(ROOT)}


def call(it: Any, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *words],
        env=environment(it.url),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=ENOUGH,
        check=False,
    )


def start(it: Any, *words: str, **pipes: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "service", *words], env=environment(it.url), text=True, start_new_session=True, **pipes
    )


def first_id(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == exits.OK, done.stderr
    return done.stdout.split()[0]


# submit


def test_a_submit_prints_one_line_with_the_id(running: Server) -> None:
    done = call(running, "submit", "primes", "limit=100")
    assert done.returncode == exits.OK
    assert re.fullmatch(rf"{ID}  (queued|running)\s+primes\s+on disk: fsync.*\n", done.stdout)
    assert done.stderr == ""
    running.wait_for(f"/jobs/{first_id(done)}", "succeeded")


def test_arguments_are_json_or_text_and_options_may_stand_between_them(running: Server) -> None:
    done = call(running, "submit", "noop", "--json", "--priority", "7", 'job_id={"a": [1, "x=y"]}', "--wait")
    job = json.loads(done.stdout)
    assert (job["priority"], job["result"]) == (7, {"a": [1, "x=y"]})
    for words, result in ((["job_id=NaN"], "NaN"), (["--args", '{"job_id": 8}'], 8)):
        assert json.loads(call(running, "submit", "noop", *words, "--wait", "--json").stdout)["result"] == result


def test_what_is_waited_for_and_fails_is_1_and_says_why(running: Server) -> None:
    done = call(running, "submit", "flaky", "failures=1", "--attempts", "1", "--wait")
    assert done.returncode == exits.UNSUCCESSFUL
    assert re.fullmatch(rf"{ID}  failed\s+flaky\s+1/1\s+RuntimeError: attempt 1 fails as asked\n", done.stdout)


def test_many_are_printed_as_they_end_and_counted(running: Server) -> None:
    done = call(running, "submit", "noop", "--count", "50", "--wait", "--json")
    assert done.returncode == exits.OK, done.stderr
    assert {json.loads(line)["state"] for line in done.stdout.splitlines()} == {"succeeded"}
    assert len(done.stdout.splitlines()) == 50
    assert done.stderr == "stormdrain: 50 succeeded\n"  # a log gets no bar


LINES = """{"job": "noop", "args": {"job_id": 1}, "priority": 3}

nonsense
{"job": "nope"}
{"job": "noop", "args": {"job_id": NaN}}
{"job": "noop", "x": 1}
{"args": {}}
{"job": "noop", "args": {"job_id": 2}, "idempotency_key": "line 8"}
"""


def test_jobs_come_from_the_standard_input_and_a_wrong_line_spoils_no_other(running: Server) -> None:
    done = call(running, "submit", "-", "--wait", "--json", stdin=LINES)
    assert done.returncode == exits.REFUSED
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(each["result"] for each in told if "result" in each) == [1, 2]
    problems = {each["line"]: each["problem"] for each in told if "problem" in each}
    assert sorted(problems) == [3, 4, 5, 6, 7]
    assert problems[4]["status"] == 404
    for number in problems:
        assert f"stormdrain: line {number}: " in done.stderr
    assert done.stderr.splitlines()[-1] == "stormdrain: 5 refused, 2 succeeded"


def test_the_same_idempotency_key_is_the_same_job(running: Server) -> None:
    first, again = (call(running, "submit", "noop", "--idempotency-key", "order 17") for _ in range(2))
    assert first_id(first) == first_id(again)
    assert "as before" in again.stdout


# follow and change


def test_a_job_is_shown_on_a_page_and_several_on_a_line_each(running: Server) -> None:
    failed = call(running, "submit", "flaky", "failures=1", "--attempts", "1", "--wait").stdout.split()[0]
    page = call(running, "status", failed)
    assert page.returncode == exits.OK
    assert re.search(r"^state    failed, attempt 1 of 1$", page.stdout, re.MULTILINE)
    assert re.search(r"^error    RuntimeError: attempt 1 fails as asked$", page.stdout, re.MULTILINE)
    assert re.search(r"^         Traceback", page.stdout, re.MULTILINE)
    assert re.search(r"^attempt  1: raised, RuntimeError.* \(\d+\.\d\d s, \S+\)$", page.stdout, re.MULTILINE)
    other = first_id(call(running, "submit", "noop"))
    lines = call(running, "status", other, failed).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [other, failed]


def test_what_submit_prints_wait_reads(running: Server) -> None:
    for form in ([], ["--json"]):
        receipts = call(running, "submit", "noop", "--count", "5", *form).stdout
        done = call(running, "wait", "-", stdin=receipts)
        assert (done.returncode, len(done.stdout.splitlines())) == (exits.OK, 5)


def test_a_wait_that_is_too_long_is_5(running: Server) -> None:
    id = first_id(call(running, "submit", "noop", "--delay", "600"))
    done = call(running, "wait", id, "--timeout", "0.3")
    assert (done.returncode, done.stderr) == (
        exits.TIMED_OUT,
        f"stormdrain: job {id} has not ended within 0.3 s\n",
    )
    assert call(running, "cancel", id).stdout.split()[:2] == [id, "cancelled"]
    assert call(running, "wait", id).returncode == exits.UNSUCCESSFUL


def test_a_running_job_is_killed_and_an_ended_one_cannot_be_cancelled(running: Server) -> None:
    id = first_id(call(running, "submit", "sleep", "seconds=100"))
    running.wait_for(f"/jobs/{id}", "running")
    call(running, "cancel", id)
    running.wait_for(f"/jobs/{id}", "cancelled")
    ended = first_id(call(running, "submit", "noop", "--wait"))
    done = call(running, "cancel", ended, id)
    assert done.returncode == exits.REFUSED
    assert done.stdout.split()[:2] == [id, "cancelled"]  # the other one was still done
    assert "refused: 409" in done.stderr


def test_failed_jobs_are_listed_and_queued_again(running: Server) -> None:
    ids = call(running, "submit", "flaky", "failures=1", "--attempts", "1", "--count", "3", "--wait").stdout
    listed = call(running, "list", "--state", "failed", "--job", "flaky", "--limit", "2")
    assert len(listed.stdout.splitlines()) == 2
    assert {line.split()[0] for line in listed.stdout.splitlines()} < {line.split()[0] for line in ids.splitlines()}
    assert len(call(running, "list", "--all").stdout.splitlines()) > 3
    one = ids.split()[0]
    assert call(running, "retry", one).stdout.split()[0] == one
    assert "requeued" in [entry["outcome"] for entry in running.job(f"/jobs/{one}")["history"]]
    again = call(running, "retry", "--state", "failed", "--job", "flaky").stdout
    assert re.fullmatch(r"\d+ queued again\n", again)
    assert int(again.split()[0]) >= 2


# what can be wrong

USAGE = {
    "no command": [],
    "an unknown command": ["nope"],
    "an unknown option": ["list", "--nope"],
    "a word that is no argument": ["submit", "noop", "seven"],
    "an argument twice": ["submit", "noop", "job_id=1", "job_id=2"],
    "arguments twice": ["submit", "noop", "job_id=1", "--args", "{}"],
    "arguments that are no object": ["submit", "noop", "--args", "[1]"],
    "arguments that are no JSON": ["submit", "noop", "--args", "{"],
    "a number that JSON does not have": ["submit", "noop", "--args", '{"job_id": 1e999}'],
    "deep arguments": ["submit", "noop", "--args", "[" * 60_000],
    "a count of none": ["submit", "noop", "--count", "0"],
    "an argument without a name": ["submit", "noop", "=3"],
    "an endless delay": ["submit", "noop", "--delay", "inf"],
    "one key for many": ["submit", "noop", "--count", "2", "--idempotency-key", "k"],
    "a key of two lines": ["submit", "noop", "--idempotency-key", "a\nb"],
    "arguments and the standard input": ["submit", "-", "job_id=1"],
    "an id that is an address": ["status", "../readyz"],
    "a wait for nothing": ["wait"],
    "a retry of nothing": ["retry"],
    "a retry of both": ["retry", "j1", "--state", "failed"],
    "a retry of a function alone": ["retry", "--job", "flaky"],
    "an unknown state": ["list", "--state", "lost"],
    "another address": ["list", "--url", "ftp://x"],
}


@pytest.mark.parametrize("words", USAGE.values(), ids=USAGE)
def test_a_wrong_command_line_is_2_and_nothing_is_sent(words: list[str]) -> None:
    with script() as stack:
        done = call(stack, *words)
        assert (done.returncode, done.stdout, stack.asked) == (exits.USAGE, "", [])
        assert "Traceback" not in done.stderr
        assert re.match(r"(stormdrain|python -m service)\b.*: ", done.stderr.splitlines()[-1])


def test_a_refusal_is_3_and_names_what_there_is(running: Server) -> None:
    done = call(running, "submit", "nope")
    assert done.returncode == exits.REFUSED
    assert re.fullmatch(r"stormdrain: refused: 404 .*'nope'; there are flaky, noop, primes, sleep\n", done.stderr)
    assert call(running, "status", "01a20e21-494e-7773-89f9-7ceecebb2108").returncode == exits.REFUSED


def test_when_nobody_answers_it_is_4_and_says_what_to_do() -> None:
    class Nowhere:
        url = "http://127.0.0.1:9"  # the discard port: nobody listens

    done = call(Nowhere, "list", "--retry-for", "2")
    assert done.returncode == exits.NO_ANSWER
    tried, told = done.stderr.splitlines()
    assert tried.startswith("stormdrain: no connection; trying again")
    assert told.startswith("stormdrain: no usable answer from http://127.0.0.1:9: no connection. ")
    assert "make up" in told


def test_who_is_no_stormdrain_is_4_too() -> None:
    with script() as stack:
        stack.replies(Reply(200, "<html>hello</html>"))
        done = call(stack, "status", "j1")
    assert done.returncode == exits.NO_ANSWER
    assert re.fullmatch(r"stormdrain: GET .* without a JSON object\. Is http://\S+ a Stormdrain\?\n", done.stderr)


HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\u202efake \x9b31m\x00"


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("command", [["status"], ["wait"], ["cancel"], ["retry"]])
def test_nothing_from_a_server_reaches_a_terminal_as_it_came(form: list[str], command: list[str]) -> None:
    attempt = {"attempt": 1, "outcome": HOSTILE, "reason": HOSTILE, "worker": HOSTILE, "output": HOSTILE}
    document = {
        "id": HOSTILE,
        "job": HOSTILE,
        "state": "failed",
        "attempts": 3,
        "args": {HOSTILE: HOSTILE},
        "error": {"type": HOSTILE, "message": HOSTILE, "traceback": HOSTILE},
        "history": [attempt],
    }
    given = {} if command[0] in ("cancel", "retry") else {"id": "j1"}
    with script() as stack:
        stack.answer = lambda asked, n: Reply(200, document | given)
        done = call(stack, *command, "j1", *form)
        stack.answer = lambda asked, n: Reply(422, {"title": HOSTILE, "detail": HOSTILE, "known": [HOSTILE]})
        refused = call(stack, *command, "j1", *form)
    assert "owned" in done.stdout
    assert "owned" in refused.stderr
    for text in (done.stdout, done.stderr, refused.stdout, refused.stderr):
        assert all(line.isprintable() for line in text.split("\n"))


# terminals, signals, pipes


def on_a_terminal(it: Any, *words: str) -> tuple[int, str]:
    """The exit code, and what a terminal was shown on standard error."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with start(it, *words, stdout=subprocess.PIPE, stderr=theirs) as child:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # EIO: the child has ended
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
        return child.wait(ENOUGH), shown.decode()


def test_many_have_a_progress_bar_on_a_terminal_and_one_has_none(running: Server) -> None:
    code, shown = on_a_terminal(running, "submit", "noop", "--count", "30", "--wait")
    assert code == exits.OK
    assert re.search(r"ended: 100%\|.*\| 30/30 ", shown)
    assert on_a_terminal(running, "submit", "noop", "--wait") == (exits.OK, "")


def test_ctrl_c_says_that_accepted_jobs_go_on(running: Server) -> None:
    with start(running, "submit", "sleep", "seconds=60", "--wait", stdout=-1, stderr=-1) as child:
        (job,) = wait_until(lambda: [job for it in running.stats()["producers"] for job in it["running"]], "it runs")
        os.killpg(child.pid, signal.SIGINT)
        began = time.monotonic()
        out, told = child.communicate(timeout=ENOUGH)
    assert (child.returncode, out, told) == (exits.STOPPED, "", "stormdrain: stopped; what was accepted goes on\n")
    assert time.monotonic() - began < 6  # it does not wait for what it had asked for
    time.sleep(1)  # a cancelled one would be killed
    assert running.job(f"/jobs/{job['id']}")["state"] == "running"
    call(running, "cancel", job["id"])


def test_when_nobody_reads_any_more_it_ends_quietly(running: Server) -> None:
    with start(running, "submit", "noop", "--count", "200", stdout=-1, stderr=-1) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.readline()
        child.stdout.close()
        assert (child.wait(ENOUGH), child.stderr.read()) == (exits.PIPE, "")


def test_the_script_in_venv_works_in_any_folder(running: Server, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text("raise SystemExit('not this one')")
    program = Path(sys.executable).with_name("stormdrain")
    if not program.exists():
        pytest.skip("this Python is not in a .venv that native/stack.py has made")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [program, "submit", "noop", "job_id=7", "--wait", "--json", "--url", running.url],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        timeout=ENOUGH,
        check=False,
    )
    assert (done.returncode, done.stderr) == (exits.OK, "")
    assert json.loads(done.stdout)["result"] == 7


def test_help_is_quick_and_names_every_exit_code() -> None:
    def help_of(*words: str) -> str:
        command = [sys.executable, "-X", "importtime", "-m", "service", *words, "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=ENOUGH, check=True)
        assert not re.search(r"\| +(requests|tqdm|tornado|apsw|msgspec)$", done.stderr, re.MULTILINE)
        return done.stdout

    assert "submit a job, or many" in help_of()
    told = help_of("wait")
    for code in (exits.OK, exits.UNSUCCESSFUL, exits.USAGE, exits.REFUSED, exits.NO_ANSWER, exits.TIMED_OUT, 130):
        assert re.search(rf"^(exit codes:)? +{code} \w", told, re.MULTILINE)
