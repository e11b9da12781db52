"""Keys with containers: created before the first start, asked for, changed on the host while the servers run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.stack.test_compose import engine
from tests.support import ROOT, free_port

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300), pytest.mark.skipif(bool(engine()), reason=str(engine()))]

ELSEWHERE = "127.0.0.2"  # loopback too, and not what is the default


class Compose:
    def __init__(self, file: Path) -> None:
        port = free_port()
        self.url = f"http://{ELSEWHERE}:{port}"
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        unset = dict.fromkeys(("BIND", "API_KEYS_FILE", "API_KEYS_DIR", "API_KEYS_NAME", "STORMDRAIN_KEY"), "")
        ours = {"STACK": "docker", "PORT": str(port), "COMPOSE_PROJECT_NAME": f"stormdrain-test-{port}"}
        self.environment = outside | unset | ours | {"PRODUCERS": "1"}
        self.settings = (f"BIND={ELSEWHERE}", f"API_KEYS_FILE={file}")

    def make(self, *target: str) -> subprocess.CompletedProcess[str]:
        return self.run("make", "--no-print-directory", *target)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=250)

    def key(self, *which: str) -> str:
        done = self.make("key", *which, self.settings[1])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def statuses(self, token: str) -> set[int]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return {requests.get(f"{self.url}/stats", headers=headers, timeout=5).status_code for _ in range(8)}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Compose]:
    it = Compose(tmp_path / "place/api_keys")
    try:
        yield it
    finally:
        it.run("docker", "compose", "--profile", "key", "down", "--volumes")


def test_without_keys_it_does_not_start_where_others_reach_it(it: Compose) -> None:
    refused = it.make("up", "BIND=0.0.0.0")
    assert refused.returncode != 0
    assert "BIND is 0.0.0.0, where others reach the server, and it asks for no key" in refused.stdout + refused.stderr
    assert it.run("docker", "compose", "ps", "--quiet").stdout == ""


def test_keys_from_before_the_first_start_to_a_deployment(it: Compose, tmp_path: Path) -> None:
    old = it.key("NAME=shop", "SCOPES=submit,read")
    assert (tmp_path / "place/api_keys").stat().st_mode & 0o777 == 0o600
    up = it.make("up", *it.settings)
    assert up.returncode == 0, up.stdout + up.stderr
    assert (it.statuses(""), it.statuses(old)) == ({401}, {200})
    new = it.key("NAME=shop", "SCOPES=read")
    assert it.statuses(new) == {200}
    it.key("REVOKE=shop-1")
    assert it.statuses(old) == {401}
    forgotten = it.make("deploy", it.settings[1])
    assert forgotten.returncode != 0
    assert f"BIND is 127.0.0.1, nginx listens on {ELSEWHERE}" in forgotten.stderr
    forgotten = it.make("deploy", it.settings[0])
    assert forgotten.returncode != 0
    assert "API_KEYS_FILE is not set, and is where the stack runs" in forgotten.stderr
    log = it.run("docker", "compose", "logs").stdout
    assert "serving as" in log
    assert not [token for token in (old, new) if token.partition(".")[2] in log]
