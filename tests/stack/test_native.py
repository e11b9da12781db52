"""The stack on the bare machine, by the Makefile, as a user starts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from tests.native import Stack, Stub, find_nginx, nginx_before
from tests.support import GOOD_ONLY_IN_THE_CHECK, ROOT, all_gone, descendants, wait_until

pytestmark = pytest.mark.stack

BODY_LIMIT = 1 << 20


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Short, since sockets are in it."""
    it = Path(f"/tmp/stormdrain-{os.getpid()}")
    it.mkdir()
    yield it
    shutil.rmtree(it)


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[Stack]:
    it = Stack(folder)
    up = it.make("up")
    assert up.returncode == 0, up.stdout + up.stderr
    assert f"ready: {it.url}" in up.stdout
    yield it
    processes = it.processes()
    down = it.make("down")
    assert down.returncode == 0, down.stdout + down.stderr
    assert all_gone(processes)
    assert it.make("down").stdout.strip() == "nothing runs"


def test_both_ways_of_sending_a_job_work_through_nginx(stack: Stack) -> None:
    for method in ("GET", "POST"):
        response = requests.request(method, stack.url, data='{"job_id": 7}', timeout=5)
        assert (response.status_code, response.text.strip()) == (200, "7 add")
    location = stack.submit("primes", limit=1000)
    assert stack.wait_for(location, "succeeded")["result"] == 168


def test_a_load_is_accepted_and_nothing_is_lost(stack: Stack) -> None:
    done = stack.make("loadtest", "N=300", "CLIENTS=20", "JOB=noop")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100.0% request success!" in done.stdout
    assert "accepted 300 = succeeded 300 + failed 0 + cancelled 0 + expired 0 + lost 0" in done.stdout


@pytest.mark.timeout(300)
def test_the_stages_and_the_product_race(stack: Stack, tmp_path: Path) -> None:
    chosen = ["STAGES=blocking producer_consumer service", "N=60", "CLIENTS=60", "SECONDS=1", "TIMEOUT=5"]
    done = stack.make("stages", *chosen, f"OUT={tmp_path}", timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {cells[1].strip(): cells for line in done.stdout.splitlines() if len(cells := line.split("|")) > 3}
    assert list(rows)[2:] == ["blocking", "producer_consumer", "service"]
    # No job can have ended before the kill: what the stage remembered is gone, what the product stored is not.
    lost = {name: int(cells[-2].split()[0]) for name, cells in list(rows.items())[2:]}
    assert lost["producer_consumer"] > 0
    assert lost["service"] == 0
    race = json.loads((tmp_path / "stages.json").read_text())
    blocking, queue, product = race["rungs"]
    assert blocking["flood"]["answered"] < 10
    for rung in (queue, product):
        assert rung["flood"]["answered"] == rung["flood"]["finished"] == 60
    assert {file.name for file in tmp_path.iterdir()} == {"stages.json", "stages.png", "stages.html"}


def test_a_race_that_is_stopped_while_its_stack_starts_leaves_nothing(folder: Path) -> None:
    place = folder / "t"
    place.mkdir()
    race = subprocess.Popen(
        [sys.executable, "-m", "loadtest", "stages", "--stages", "service", "--out", str(place / "out")],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(place)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # The third comes while the first stops the stack.
    for sign in ("run/supervisord.pid", "run/server*.sock", "run"):
        wait_until(lambda sign=sign: list(place.glob(f"stack-*/{sign}")), sign)
        pids = [read_pid(found) for found in place.glob("stack-*/run/supervisord.pid")]
        family = [psutil.Process(pid) for pid in pids if pid]
        family += [child for process in family for child in descendants(process.pid)]
        os.killpg(race.pid, signal.SIGINT)
    _, said = race.communicate(timeout=60)
    assert race.returncode == 130
    assert "Stopped." in said
    assert all_gone(family)
    assert list(place.glob("stack-*")) == []


def read_pid(file: Path) -> int:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return 0


def test_a_second_stack_on_the_same_port_or_folder_is_refused_with_a_sentence(stack: Stack) -> None:
    again = stack.make("up")
    assert again.returncode != 0
    assert "it runs already" in again.stderr
    other = Stack(stack.folder / "other")
    other.port = stack.port
    refused = other.make("up")
    assert f"port {stack.port} cannot be had" in refused.stderr


def test_status_says_what_runs(stack: Stack) -> None:
    status = wait_until(
        lambda: status if (status := stack.make("status")).stdout.count("RUNNING") == 3 else None, "all run"
    )
    assert status.returncode == 0
    assert '{"status":"ready"}' in status.stdout


def test_the_request_id_is_in_both_logs(stack: Stack) -> None:
    requests.post(f"{stack.url}/jobs", json={"job": "noop"}, headers={"X-Request-ID": "follow-me-1"}, timeout=5)
    for name in ("nginx", "server_*"):
        logs = list((stack.folder / "log").glob(f"{name}.log"))
        wait_until(
            lambda logs=logs: any("follow-me-1" in log.read_text() for log in logs), f"the id is in one of {logs}", 5
        )


def test_nginx_answers_in_the_services_own_way(stack: Stack) -> None:
    too_large = requests.post(f"{stack.url}/jobs", data="x" * (BODY_LIMIT + 1), timeout=5)
    wrong = requests.put(f"{stack.url}/", data="{}", timeout=5)
    for response, status in ((too_large, 413), (wrong, 405), (requests.get(f"{stack.url}/x", timeout=5), 404)):
        assert response.status_code == status
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["status"] == status
    assert wrong.headers["Allow"] == "GET, HEAD, POST"
    for garbage in (
        b"\x00\x01 nonsense\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: x\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\n",
    ):
        answer = raw(stack.port, garbage)
        assert b" 400 " in answer.split(b"\r\n")[0]
        assert b"application/problem+json" in answer


def raw(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        answer = b""
        with suppress(TimeoutError):
            while data := connection.recv(65536):
                answer += data
        return answer


def test_a_client_cannot_choose_its_own_address(stack: Stack) -> None:
    requests.post(f"{stack.url}/", json={"job_id": 1}, headers={"X-Real-IP": "6.6.6.6"}, timeout=5)
    assert "6.6.6.6" not in (stack.folder / "log/nginx.log").read_text()


def test_a_server_restarted_under_load_loses_nothing(stack: Stack) -> None:
    """Requests in the gap are refused or unknown, never accepted and lost."""
    load = threading.Thread(target=lambda: outcome.append(stack.make("loadtest", "N=600", "CLIENTS=10", "JOB=noop")))
    outcome: list[subprocess.CompletedProcess[str]] = []
    before = stack.stats()["states"]["succeeded"]
    load.start()
    wait_until(lambda: stack.stats()["states"]["succeeded"] > before + 20, "the load runs")
    for server in stack.servers():
        server.terminate()
    load.join()
    assert "+ lost 0" in outcome[0].stdout, outcome[0].stdout
    wait_until(lambda: stack.make("status").stdout.count("RUNNING") == 3, "all run", 30)


@pytest.mark.timeout(400)
def test_a_deployment_under_load_replaces_every_server_and_fails_no_request(stack: Stack) -> None:
    old = [process for server in stack.servers() for process in (server, *descendants(server.pid))]
    with stack.load():
        deployed = stack.make("deploy", timeout=200)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert "deployed: 2 new servers" in deployed.stdout
    assert all_gone(old)
    assert len(stack.servers()) == 2
    assert not (stack.folder / "nginx/closing").exists()


@pytest.mark.timeout(200)
def test_an_interrupted_deployment_finishes_the_server_that_it_has_stopped(stack: Stack) -> None:
    old = stack.servers()
    for _ in range(12):
        stack.submit("sleep", seconds=2.0)  # so that there is something to wait for
    with stack.making("deploy") as deploying:
        assert deploying.stdout
        assert deploying.stderr
        assert any("draining, then a new one" in line for line in deploying.stdout)
        for _ in range(10_000):  # also while it starts what it asks supervisord with
            os.killpg(deploying.pid, signal.SIGINT)
        out, err = deploying.stdout.read(), deploying.stderr.read()
    assert deploying.returncode
    assert "server 0: the new one is ready" in out
    assert "interrupted: 1 of 2 servers run the new code and settings" in err
    assert len(stack.servers()) == 2
    assert len(set(stack.servers()) & set(old)) == 1
    assert stack.make("status").stdout.count("RUNNING") == 3


@pytest.mark.timeout(200)
def test_a_deployment_that_is_interrupted_while_nginx_reloads_leaves_all_as_it_was(stack: Stack) -> None:
    old, closing = stack.servers(), stack.folder / "nginx/closing"
    with stack.making("deploy") as deploying:
        wait_until(closing.exists, "nginx closes connections", 60)
        for _ in range(10_000):
            os.killpg(deploying.pid, signal.SIGINT)
        _, err = deploying.communicate(timeout=100)
    assert deploying.returncode
    assert "interrupted: 0 of 2 servers run the new code and settings" in err
    assert not closing.exists(), "every answer would go on to end its connection"
    assert stack.servers() == old


def test_a_folder_that_cannot_be_is_told_in_a_sentence(folder: Path) -> None:
    (folder / "file").touch()
    for target in ("up", "down", "status"):
        refused = Stack(folder / "file").make(target)
        assert refused.returncode
        assert "Traceback" not in refused.stderr
    assert (
        f"JOBS_DIR is {folder}/none, which is no folder"
        in Stack(folder / "c").make("up", f"JOBS_DIR={folder}/none").stderr
    )


def test_status_tells_of_no_other_stack_than_this(stack: Stack) -> None:
    other = Stack(stack.folder)
    asked = other.make("status")
    assert asked.returncode
    assert f"was started with PORT={stack.port}: make status PORT={stack.port}" in asked.stderr


def test_a_module_of_the_callers_takes_no_place_in_the_standard_library(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    asked = stack.make("status")
    assert asked.returncode == 0, asked.stderr


@pytest.mark.timeout(200)
def test_what_only_looks_at_the_jobs_is_no_part_of_what_runs(folder: Path) -> None:
    """`make down` ends what a kill has left behind: not a start, nor a backup, that is under way."""
    jobs, it = folder / "jobs", Stack(folder / "b")
    jobs.mkdir()
    (jobs / "slow.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from service.jobs import noop\n"
        "Path(__file__).with_name('begun').touch()\n"
        "while not Path(__file__).with_name('go').exists():\n"
        "    time.sleep(0.02)\n"
    )
    with it.making("up", "JOBS=slow", f"JOBS_DIR={jobs}") as starting:
        wait_until((jobs / "begun").exists, "the check is under way")
        assert it.make("down").stdout.strip() == "nothing runs"
        assert "another make up or make deploy is under way" in it.make("up").stderr
        (jobs / "go").touch()
        out, err = starting.communicate(timeout=100)
    try:
        assert starting.returncode == 0, out + err
    finally:
        it.make("down")


@pytest.mark.timeout(400)
def test_nginx_reloads_under_load_and_breaks_no_connection(stack: Stack) -> None:
    conf = stack.folder / "nginx/nginx.conf"
    master = psutil.Process(int((stack.folder / "nginx/nginx.pid").read_text()))
    nginx = find_nginx()
    with stack.load():
        for _ in range(3):
            old = master.children()
            subprocess.run([ROOT / "nginx/reload.sh", stack.folder / "nginx/", conf, nginx], check=True, timeout=60)
            assert set(master.children()) - set(old)


@pytest.mark.timeout(200)
def test_a_new_release_that_does_not_serve_is_refused_and_the_old_goes_on(stack: Stack, tmp_path: Path) -> None:
    old = stack.servers()
    for setting, sentence in (
        ("JOBS=no.such.module", "JOBS is 'no.such.module', which cannot be imported"),
        ("DRAIN=7", "DRAIN is not what the stack was started with"),
    ):
        refused = stack.make("deploy", setting)
        assert refused.returncode != 0
        assert sentence in refused.stderr
    assert stack.servers() == old

    (tmp_path / "only_checks.py").write_text(GOOD_ONLY_IN_THE_CHECK)
    refused = stack.make("deploy", "JOBS=only_checks", f"JOBS_DIR={tmp_path}", timeout=150)
    assert refused.returncode != 0
    assert "a new server did not get ready" in refused.stderr
    assert "as it was set before, it serves again" in refused.stderr
    assert len(set(stack.servers()) & set(old)) == 1
    assert len(stack.servers()) == 2
    assert stack.wait_for(stack.submit("primes", limit=1000), "succeeded")["result"] == 168


def test_what_a_killed_supervisord_leaves_behind_is_stopped_and_nothing_is_lost(folder: Path) -> None:
    it = Stack(folder / "a b")  # with a space in its path
    (it.folder / "log").mkdir(parents=True)
    (it.folder / "log/supervisord.log").write_text("INFO gave up: server entered FATAL state\n")  # of an earlier start
    assert it.make("up").returncode == 0
    try:
        job = it.submit("sleep", seconds=1.0, job_id=5)
        processes = it.processes()
        processes[0].kill()
        wait_until(lambda: all_gone(processes[:1]), "supervisord is dead")
        assert it.make("down").stdout.strip().endswith("stopped")
        assert all_gone(processes)
        assert it.make("up").returncode == 0
        assert it.wait_for(job, "succeeded")["result"] == 5
    finally:
        it.make("down")


def test_a_killed_nginx_is_replaced_and_nothing_of_it_is_left(stack: Stack) -> None:
    """Its workers live on without it, and hold the port."""
    pid_file = stack.folder / "nginx/nginx.pid"
    master = psutil.Process(int(pid_file.read_text()))
    family = [master, *master.children()]
    master.kill()
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() not in ("", str(master.pid)), "a new master")
    wait_until(lambda: all_gone(family), "the old workers have ended")
    wait_until(lambda: stack.make("status").stdout.count("RUNNING") == 3, "all run", 30)
    assert requests.get(f"{stack.url}/healthz", timeout=5).status_code == 200


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("SLOTS=abc", "SLOTS is 'abc': use a whole number of slots"),
        ("DRAIN=abc", "DRAIN is 'abc'"),
        ("DRAIN=inf", "DRAIN is 'inf'"),
        ("PORT=99999", "PORT is '99999'"),
        ("JOBS=no.such.module", "JOBS is 'no.such.module', which cannot be imported"),
    ],
)
def test_a_wrong_setting_is_told_once_before_anything_starts(folder: Path, setting: str, sentence: str) -> None:
    it = Stack(folder / "wrong")
    done = it.make("up", setting)
    assert done.returncode != 0
    assert done.stderr.count(sentence) == 1, done.stderr
    assert not (it.folder / "run/supervisord.pid").exists()


@pytest.fixture
def prefix(folder: Path) -> Path:
    it = folder / f"other-{time.monotonic_ns()}"
    it.mkdir()
    return it


def send(port: int, request_line: bytes) -> bytes:
    body = b'{"job_id": 7}'
    return raw(
        port, request_line + b"\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )


ENQUEUES = pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1", b"POST / HTTP/1.1", b"POST /jobs HTTP/1.1"])


@ENQUEUES
def test_what_enqueues_is_never_sent_to_a_second_producer(stack: Stack, prefix: Path, request_line: bytes) -> None:
    paths = [prefix / f"{n}.sock" for n in range(3)]
    stubs = [Stub(path) for path in paths]
    with nginx_before(stack, *paths) as port:
        answer = send(port, request_line)
    assert b" 502 " in answer.split(b"\r\n")[0]
    assert b"application/problem+json" in answer
    assert sum(len(stub.hits) for stub in stubs) == 1


@ENQUEUES
def test_what_could_not_be_sent_goes_to_a_producer_that_is_there(
    stack: Stack, prefix: Path, request_line: bytes
) -> None:
    with nginx_before(stack, prefix / "0.sock", prefix / "1.sock", stack.folder / "run/server_0.sock") as port:
        for _ in range(6):
            assert send(port, request_line).split(b" ")[1] in (b"200", b"202", b"422")


@ENQUEUES
def test_without_any_producer_nginx_answers_with_a_problem(stack: Stack, prefix: Path, request_line: bytes) -> None:
    with nginx_before(stack, prefix / "0.sock") as port:
        answer = send(port, request_line)
    assert b" 502 " in answer.split(b"\r\n")[0]
    assert b'"type":"/problems/no-producer"' in answer
