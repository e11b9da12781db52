"""The load generator, as real processes against a small real HTTP server that behaves as each test says."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtest import report, settings
from loadtest.answer import MISSING, Sighting
from loadtest.exits import Exit, Unusable
from loadtest.follow import Follow
from loadtest.progress import Progress
from loadtest.submit import Submission

ROOT = Path(__file__).parents[2]
OURS = {option.variable for option in settings.RUN}
ENOUGH = 30.0  # seconds after which a hung child is a failure

Reply = tuple[int, object, dict[str, str]]  # status, JSON body or text, headers


def accepted(number: int) -> Reply:
    return 202, {"id": f"j{number}", "state": "queued"}, {"Location": f"/jobs/j{number}"}


def ended(number: int, look: int) -> Reply:
    return 200, {"id": f"j{number}", "state": "succeeded"}, {}


class Stack(ThreadingHTTPServer):
    """Answers the n-th submit with `submit(n)`, and the k-th look-up of job n with `look(n, k)`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.health = 200
        self.submit: Callable[[int], Reply] = accepted
        self.look: Callable[[int, int], Reply] = ended
        self.bodies: list[Any] = []
        self.looks: Counter[str] = Counter()
        self.connections = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, method: str, path: str, body: bytes) -> Reply:
        if path == "/healthz":
            return self.health, "", {}
        if path == "/jobs" if method == "POST" else path == "/":
            with self.lock:
                self.bodies.append(json.loads(body))
                number = len(self.bodies) - 1
            return self.submit(number)
        with self.lock:
            self.looks[path] += 1
        return self.look(int(path.removeprefix("/jobs/j")), self.looks[path])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    server: Stack
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, content, headers = self.server.answer(self.command, self.path, body)
        if not status:  # hang up without an answer
            self.close_connection = True
            return
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stack() -> Iterator[Stack]:
    with Stack() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def command(url: str, values: dict[str, Any], code: str = "") -> dict[str, Any]:
    """Arguments of subprocess; settings travel as environment variables, as make and Compose pass them."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    given = {name: str(value) for name, value in ({"URL": url, "N": 20, "CLIENTS": 2} | values).items()}
    start = ["-c", code] if code else ["-m", "loadtest"]
    return {"args": [sys.executable, *start], "cwd": ROOT, "env": {**clean, **given}, "text": True}


def loadtest(url: str, code: str = "", **values: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(**command(url, values, code), capture_output=True, timeout=ENOUGH, check=False)


def test_when_every_job_is_accepted_and_ends_it_says_so_and_exits_0(stack: Stack) -> None:
    state = {3: "failed", 4: "cancelled", 5: "expired"}
    stack.look = lambda number, look: (200, {"state": state.get(number, "succeeded")}, {})
    done = loadtest(stack.url, ARGS='{"seconds": 0}')
    assert done.returncode == Exit.OK, done.stderr
    assert "\n100.0% request success!\n" in done.stdout
    assert "accepted 20 = succeeded 17 + failed 1 + cancelled 1 + expired 1 + lost 0\n" in done.stdout
    assert re.search(r"20 requests in .* s: .* requests/s\n", done.stdout)
    assert re.search(r"answer time in ms: p50 [\d.]+, p90 [\d.]+, p99 [\d.]+, max [\d.]+\n", done.stdout)
    assert stack.bodies == [{"job": "sleep", "args": {"seconds": 0}}] * 20
    assert stack.connections <= 2 + 1  # one kept for each client, and one for the health check
    assert done.stderr == ""  # a log gets no bar


def test_a_job_is_looked_at_until_it_ends(stack: Stack) -> None:
    stack.look = lambda number, look: ended(number, look) if look > 2 else (200, {"state": "running"}, {})
    done = loadtest(stack.url)
    assert done.returncode == Exit.OK
    assert set(stack.looks.values()) == {3}


def test_the_original_form_sends_each_job_id_once_and_wants_its_text_back(stack: Stack) -> None:
    def original(number: int) -> Reply:
        return 200, f"{stack.bodies[number]['job_id']} add", {"Location": f"/jobs/j{number}"}

    stack.submit = original
    done = loadtest(stack.url, FORM="original")
    assert done.returncode == Exit.OK, done.stdout
    assert sorted(body["job_id"] for body in stack.bodies) == list(range(20))


def test_an_accepted_job_that_answers_404_is_lost_and_named(stack: Stack) -> None:
    gone: Reply = (404, {"title": "No such job"}, {})
    stack.look = lambda number, look: gone if number == 7 else ended(number, look)
    done = loadtest(stack.url)
    assert done.returncode == Exit.LOST
    assert "accepted 20 = succeeded 19 + failed 0 + cancelled 0 + expired 0 + lost 1\n" in done.stdout
    assert "LOST j7 (404, last seen: never)\n" in done.stdout


def test_a_removed_job_is_not_lost_but_one_whose_id_was_given_to_two_jobs_is(stack: Stack) -> None:
    stack.submit = lambda number: accepted(min(number, 18))
    stack.look = lambda number, look: (410, {}, {}) if number == 7 else ended(number, look)
    done = loadtest(stack.url)
    assert done.returncode == Exit.LOST
    assert "succeeded 18 + failed 0 + cancelled 0 + expired 0 + removed 1 + lost 1\n" in done.stdout
    assert "LOST j18 (its id was given to two jobs)\n" in done.stdout


def test_failures_are_counted_by_reason_and_what_is_unknown_is_said_apart(stack: Stack, tmp_path: Path) -> None:
    full: Reply = (503, {"title": "Backlog full"}, {})
    replies = {0: full, 1: full, 2: (502, "", {}), 3: (0, "", {}), 4: (202, {}, {}), 5: (200, {}, {})}
    stack.submit = lambda number: replies.get(number) or accepted(number)
    done = loadtest(stack.url, JSON=tmp_path / "figures.json")
    assert done.returncode == Exit.REFUSED
    assert "\n70.0% request success!\n" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["unknown"] == {"HTTP 502": 1, "connection broken": 1}
    assert figures["refused"] == {
        "HTTP 503 Backlog full": 2,
        "HTTP 202 without Location: /jobs/<id>": 1,
        "HTTP 200": 1,
    }
    assert "not accepted: 2 x HTTP 503 Backlog full\n" in done.stdout
    assert "unknown, may have been accepted and is not followed: 1 x HTTP 502\n" in done.stdout
    assert (figures["accepted"], figures["ends"]["succeeded"], figures["exit"]) == (14, 14, 3)


def test_a_time_out_is_unknown(stack: Stack) -> None:
    release = threading.Event()

    def first_hangs(number: int) -> Reply:
        if number == 0:
            release.wait(ENOUGH)
        return accepted(number)

    stack.submit = first_hangs
    done = loadtest(stack.url, TIMEOUT=1)
    release.set()
    assert done.returncode == Exit.REFUSED
    assert "not followed: 1 x time-out\n" in done.stdout


def test_nearly_all_is_not_100_percent() -> None:
    assert report.success_line(Submission(3000, ids=["j"] * 2999)) == "99.9% request success!"


def test_percentiles_are_values_that_were_measured() -> None:
    times = [number / 1000 for number in range(1, 201)]
    expected = {"p50": 100.0, "p90": 180.0, "p99": 198.0, "max": 200.0}
    assert report.answer_times(Submission(200, times=times)) == expected
    assert report.answer_times(Submission(1, times=[0.005]))["p50"] == 5.0


def test_a_job_that_does_not_end_is_unfinished_not_lost_and_hides_no_other(stack: Stack) -> None:
    running: Reply = (200, {"state": "running"}, {})
    stack.look = lambda number, look: running if number < 15 else ended(number, look)
    done = loadtest(stack.url, N=40, FOLLOW_TIMEOUT=0.3)
    assert done.returncode == Exit.UNFINISHED
    assert "accepted 40 = succeeded 25 + failed 0 + cancelled 0 + expired 0 + unfinished 15 + lost 0\n" in done.stdout
    assert "not ended when no more did: 15 x running\n" in done.stdout


def test_at_most_20_lost_jobs_are_printed() -> None:
    ids = [f"j{number}" for number in range(30)]
    follow = Follow(lambda some: (Sighting(id, MISSING) for id in some), ids, patience=1)
    follow.to_the_end(Progress("jobs ended", 30))
    text = report.followed(Submission(30, ids=ids), follow)
    assert (text.count("LOST j"), text.splitlines()[-1]) == (20, "… and 10 more LOST")


def test_look_ups_go_on_while_the_stack_restarts(stack: Stack) -> None:
    trouble: dict[int, Reply] = {1: (503, {}, {}), 2: (502, "", {}), 3: (0, "", {}), 4: (200, "<html>", {})}
    stack.look = lambda number, look: trouble.get(look) or ended(number, look)
    done = loadtest(stack.url, N=5)
    assert done.returncode == Exit.OK, done.stdout


def test_a_stack_that_does_not_come_back_leaves_its_jobs_lost(stack: Stack) -> None:
    states: dict[int, Reply] = {1: (200, {"state": "queued"}, {})}
    stack.look = lambda number, look: states.get(look) or (503, {}, {})
    done = loadtest(stack.url, N=1, FOLLOW_TIMEOUT=0.1)
    assert done.returncode == Exit.LOST
    assert "LOST j0 (no end seen, last seen: queued, then HTTP 503)\n" in done.stdout


def test_when_nothing_answers_it_says_what_to_do_and_exits_2() -> None:
    done = loadtest("http://127.0.0.1:9")  # the discard port: nobody listens
    assert done.returncode == Exit.UNUSABLE
    assert done.stderr.startswith("Nothing answers at http://127.0.0.1:9 (no connection). ")
    assert "`make up`" in done.stderr


def test_a_health_check_that_is_not_200_stops_it_before_the_first_request(stack: Stack) -> None:
    stack.health = 502
    done = loadtest(stack.url)
    assert (done.returncode, stack.bodies) == (Exit.UNUSABLE, [])
    assert "answered HTTP 502, not 200" in done.stderr


def test_a_wrong_value_is_answered_with_a_sentence_and_2() -> None:
    done = loadtest("http://127.0.0.1:9", N="many")
    assert done.returncode == Exit.UNUSABLE
    assert done.stderr == "N must be a whole number from 1 to 10000000, not 'many'.\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n", "0"),
        ("n", "²"),
        ("clients", "1001"),
        ("timeout", "nan"),
        ("follow_timeout", "-1"),
        ("args", "[1]"),
        ("args", "{"),
        ("form", "new"),
        ("job", " "),
        ("url", "localhost:8080"),
        ("url", "http://127.0.0.1:99999"),
        ("json", "/no/such/folder/figures.json"),
    ],
)
def test_each_wrong_value_is_named(name: str, text: str) -> None:
    given = Namespace(**{option.name: None for option in settings.RUN} | {name: text})
    with pytest.raises(Unusable, match=rf"^{name.upper()} must be .*, not .*\.$"):
        settings.read(settings.RUN, given)


def test_a_flag_wins_over_its_variable_and_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "5")
    monkeypatch.setenv("CLIENTS", "")
    given = Namespace(**{option.name: None for option in settings.RUN} | {"n": "7"})
    values = settings.read(settings.RUN, given)
    assert (values["n"], values["clients"]) == (7, 10)


def kill_the_client() -> None:
    """The one process that this test's fork server has started."""
    helpers = psutil.Process().children(recursive=True)
    servers = [p.pid for p in helpers if "multiprocessing.forkserver" in " ".join(p.cmdline())]
    (client,) = [p for p in helpers if p.ppid() in servers]
    client.kill()


def test_a_client_process_that_dies_ends_the_wait_and_its_request_is_unknown(stack: Stack) -> None:
    def submit(number: int) -> Reply:
        if number == 0:
            kill_the_client()
        return accepted(number)

    stack.submit = submit
    code = "from loadtest import __main__, pool; pool.SLACK = 0; exit(__main__.main([]))"
    done = loadtest(stack.url, code, CLIENTS=1, TIMEOUT=1)
    assert done.returncode == Exit.REFUSED, done.stderr
    assert "not followed: 1 x client process died\n" in done.stdout


def members(group: int) -> list[int]:
    """The living processes of a process group."""

    def alive(stat: str) -> bool:
        state, _, pgrp = stat.rpartition(")")[2].split()[:3]
        return int(pgrp) == group and state != "Z"

    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            if alive(entry.read_text()):
                found.append(int(entry.parent.name))
        except OSError:  # ended meanwhile
            continue
    return found


@pytest.mark.parametrize("how", ["Ctrl-C while submitting", "SIGTERM while following"])
def test_when_stopped_it_ends_cleanly_and_leaves_no_process(stack: Stack, how: str) -> None:
    seen, release = threading.Event(), threading.Event()

    def stuck(number: int, look: int = 0) -> Reply:
        seen.set()
        release.wait(ENOUGH)
        return accepted(number)

    if how.endswith("submitting"):
        stack.submit = stuck
    else:
        stack.look = stuck
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen(**command(stack.url, {"CLIENTS": 4, "TIMEOUT": ENOUGH}), **pipes) as child:
        try:
            assert seen.wait(ENOUGH)
            assert len(members(child.pid)) >= 1 + 4
            if how.startswith("Ctrl-C"):  # a terminal sends it to the whole group
                os.killpg(child.pid, signal.SIGINT)
            else:
                os.kill(child.pid, signal.SIGTERM)
            _, error = child.communicate(timeout=ENOUGH)
        finally:
            release.set()
            child.kill()
    assert child.returncode == Exit.STOPPED
    assert error == "Stopped. What a running stack has accepted stays accepted: it finishes it without us.\n"
    deadline = time.monotonic() + 5  # the fork server notices the closed pipe a moment later
    while members(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert members(child.pid) == []
