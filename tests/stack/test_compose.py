"""The Compose stack, for real: build, up, curl, load, scale, restart, kill, down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import GOOD_ONLY_IN_THE_CHECK, ROOT, Client, free_port, wait_until


def engine() -> str | None:
    """Why the Compose stack cannot be run here, or None."""
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"no Docker Engine: {error}"
        if done.returncode:
            return f"no Docker Engine: {' '.join(command)}: {done.stderr.strip().splitlines()[-1]}"
    return None


pytestmark = [pytest.mark.docker, pytest.mark.timeout(300), pytest.mark.skipif(bool(engine()), reason=str(engine()))]


class Compose(Client):
    """A project of its own, so that the stack of whoever runs the tests is left alone."""

    def __init__(self) -> None:
        port = free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        self.environment = os.environ | {"PORT": str(port), "COMPOSE_PROJECT_NAME": f"stormdrain-test-{port}"}

    def __call__(self, *arguments: str, check: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=ROOT,
            env=self.environment | settings,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    def load(self, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["docker", "compose", "--profile", "load", "run", "--rm", "loadtest"],
            cwd=ROOT,
            env=self.environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def containers(self, service: str) -> list[str]:
        return self("ps", "--quiet", service).stdout.split()

    def accepted(self) -> int:
        return sum(self.stats()["states"].values())


def inspect(container: str) -> dict[str, Any]:
    done = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)[0]
    return document


@pytest.fixture(scope="module")
def stack() -> Iterator[Compose]:
    it = Compose()
    it("--profile", "load", "build")
    try:
        it("up", "--detach", "--wait")
        yield it
    finally:
        it("--profile", "load", "down", "--volumes", check=False)


def finished(load: subprocess.Popen[str]) -> str:
    output, _ = load.communicate(timeout=200)
    return output


def test_jobs_are_accepted_and_run(stack: Compose) -> None:
    response = requests.get(stack.url, data='{"job_id": 7}', timeout=5)
    assert (response.status_code, response.text.strip()) == (200, "7 add")
    assert stack.wait_for(stack.submit("primes", limit=1000), "succeeded")["result"] == 168
    assert len(stack.containers("server")) == 2


def test_a_start_from_another_folder_does_not_take_this_ones_place(stack: Compose, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    other = Path(shutil.copy(ROOT / "docker/alone.sh", tmp_path / "docker"))
    refused = subprocess.run([other], env=stack.environment, capture_output=True, text=True)
    assert refused.returncode
    assert f"run from {ROOT}: make down stops them" in refused.stderr
    assert subprocess.run([ROOT / "docker/alone.sh"], env=stack.environment).returncode == 0


def test_the_containers_are_locked_down(stack: Compose) -> None:
    for container in [*stack.containers("server"), *stack.containers("nginx")]:
        it = inspect(container)
        assert it["Config"]["User"] not in ("", "0", "root")
        host = it["HostConfig"]
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["Init"]) == (True, ["ALL"], True)
        assert "no-new-privileges:true" in host["SecurityOpt"]
        published = [b["HostIp"] for bindings in (host["PortBindings"] or {}).values() for b in bindings]
        assert set(published) <= {"127.0.0.1"}


def test_nginx_accepts_its_configuration(stack: Compose) -> None:
    stack("exec", "nginx", "nginx", "-t", "-p", "/tmp/", "-c", "/etc/nginx/nginx.conf")


def test_more_servers_join_under_load_without_a_failed_request(stack: Compose) -> None:
    before = stack.accepted()
    load = stack.load(N="1500", CLIENTS="20", JOB="noop")
    wait_until(lambda: stack.accepted() > before + 50, "the load runs", 60)
    stack("up", "--detach", "--wait", "--no-recreate", "--scale", "server=4")
    output = finished(load)
    assert "100.0% request success!" in output, output
    assert "accepted 1500 = succeeded 1500 " in output
    assert load.returncode == 0
    wait_until(lambda: len(stack.stats()["producers"]) >= 4, "four servers work")
    stack("up", "--detach", "--wait", "--no-recreate", "--scale", "server=2")


def test_a_server_restarted_under_load_fails_no_request(stack: Compose) -> None:
    before = stack.accepted()
    load = stack.load(N="1500", CLIENTS="20", JOB="noop")
    wait_until(lambda: stack.accepted() > before + 50, "the load runs", 60)
    subprocess.run(["docker", "restart", stack.containers("server")[0]], check=True, capture_output=True, timeout=100)
    output = finished(load)
    assert "100.0% request success!" in output, output
    assert "+ lost 0" in output


def deploy(stack: Compose, *settings: str) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in stack.environment.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "deploy", "STACK=docker", *settings],
        cwd=ROOT,
        env=outside,
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.timeout(600)
def test_a_deployment_under_load_replaces_every_server_and_fails_no_request(stack: Compose) -> None:
    before, old = stack.accepted(), stack.containers("server")
    load = stack.load(N="10000", CLIENTS="10", JOB="noop")
    wait_until(lambda: stack.accepted() > before + 50, "the load runs", 60)
    deployed = deploy(stack)
    assert load.poll() is None, "the load was too short to show anything"
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    new = stack.containers("server")
    assert (len(new), set(new) & set(old)) == (len(old), set())
    assert len(stack("ps", "--all", "--quiet", "server").stdout.split()) == len(old)
    output = finished(load)
    assert "100.0% request success!" in output, output
    assert "accepted 10000 = succeeded 10000 " in output


def test_nginx_reloads_under_load_and_breaks_no_connection(stack: Compose) -> None:
    before = stack.accepted()
    load = stack.load(N="4000", CLIENTS="20", JOB="noop")
    wait_until(lambda: stack.accepted() > before + 50, "the load runs", 60)
    for _ in range(3):
        stack("exec", "--no-TTY", "nginx", "/etc/nginx/reload.sh", "/tmp/", "/etc/nginx/nginx.conf")
    assert load.poll() is None, "the load was too short to show anything"
    assert "100.0% request success!" in (output := finished(load)), output


@pytest.mark.timeout(400)
def test_a_new_release_that_does_not_serve_is_refused_and_the_old_goes_on(stack: Compose, tmp_path: Path) -> None:
    old, image = stack.containers("server"), inspect(stack.containers("server")[0])["Image"]
    tmp_path.chmod(0o755)
    (tmp_path / "only_checks.py").write_text(GOOD_ONLY_IN_THE_CHECK)
    for sentence, *settings in (
        ("JOBS is 'no.such.module', which cannot be imported", "JOBS=no.such.module"),
        ("a new server cannot boot", "JOBS=only_checks", f"JOBS_DIR={tmp_path}"),
    ):
        refused = deploy(stack, *settings)
        assert refused.returncode != 0
        assert sentence in refused.stdout + refused.stderr
        assert "the old servers go on" in refused.stderr
        assert stack("ps", "--all", "--quiet", "server").stdout.split() == old
        assert inspect("stormdrain-service")["Id"] == image
    assert stack.wait_for(stack.submit("primes", limit=1000), "succeeded")["result"] == 168


def test_what_a_killed_server_container_held_runs_again_within_two_seconds(stack: Compose) -> None:
    jobs = [stack.submit("sleep", seconds=20.0, job_id=n) for n in range(12)]
    for job in jobs:
        stack.wait_for(job, "running")
    victim = stack.containers("server")[0]
    os.kill(inspect(victim)["State"]["Pid"], signal.SIGKILL)  # its init: all of the container goes with it

    def all_run_again() -> bool:
        documents = [stack.job(job) for job in jobs]
        lost = [d for d in documents if "lost" in [entry["outcome"] for entry in d["history"]]]
        return bool(lost) and all(d["state"] == "running" for d in documents)

    wait_until(all_run_again, "every job runs again", 2.0)
    assert {stack.job(job)["attempt"] for job in jobs} == {1}
    wait_until(lambda: inspect(victim)["State"].get("Health", {}).get("Status") == "healthy", "it is back", 30)


def test_a_server_that_cannot_boot_ends_its_container_with_an_error(stack: Compose) -> None:
    done = stack("run", "--rm", "--no-deps", "server", check=False, JOBS="no.such.module")
    assert done.returncode == 3
    assert "JOBS is 'no.such.module', which cannot be imported" in done.stdout


def test_a_load_from_a_shell_with_other_settings_leaves_the_servers_alone(stack: Compose) -> None:
    before = stack.containers("server")
    output = finished(stack.load(N="20", CLIENTS="2", JOB="noop", SLOTS="3"))
    assert "100.0% request success!" in output, output
    assert stack.containers("server") == before


def test_the_stages_and_the_product_race_in_the_load_generators_container(stack: Compose) -> None:
    run = ("--profile", "load", "run", "--rm", "--no-TTY")
    chosen = {"STAGES": "blocking process_executor service", "N": "60", "CLIENTS": "20", "SECONDS": "0.2"}
    race = stack(*run, "loadtest", "stages", **chosen, TIMEOUT="1")
    for name in ("blocking", "process_executor", "service"):
        assert f"\n| {name} " in race.stdout, race.stdout + race.stderr
    assert "in /results/: stages.json, stages.png, stages.html" in race.stdout
    kept = stack(*run, "--entrypoint", "ls", "loadtest", "/results")
    assert kept.stdout.split() == ["stages.html", "stages.json", "stages.png"]


def test_down_leaves_nothing_running_and_the_backlog_on_disk(stack: Compose) -> None:
    job = stack.submit("noop", job_id="still here")
    stack("down")
    assert stack.containers("server") == []
    stack("up", "--detach", "--wait")
    assert stack.job(job)["args"] == {"job_id": "still here"}
