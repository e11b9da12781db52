"""What is written is true: settings, targets, layers."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from docs.render import BLOCK, PAGES, render
from service.config import Config
from service.stages import STAGES
from tests.support import ROOT

README = (ROOT / "README.md").read_text()
SETTINGS = [f.name.upper() for f in fields(Config)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_figures_code_and_diffs_are_what_the_program_and_the_race_say(page: Path) -> None:
    text = page.read_text()
    assert text == render(text), "run `make docs`"
    assert text.count("<!-- end -->") == len(BLOCK.findall(text)) > 0


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/ladder.md", ROOT / "docs/ladder.zh-CN.md"])
def test_the_ladder_has_every_stage_and_says_on_how_many_cores(page: Path) -> None:
    (block,) = re.findall(r"<!-- table sleep -->\n(.*?)<!-- end -->", page.read_text(), re.DOTALL)
    head, _, *rows = [line.split("|")[1:-1] for line in block.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows] == [*STAGES, "service"]
    assert {len(row) for row in rows} == {len(head)}
    assert re.search(r"Measured \d{4}-\d\d-\d\d on \d+ cores", block)


def test_both_languages_tell_the_same_blocks() -> None:
    english, chinese = ((ROOT / f"docs/ladder{tail}.md").read_text() for tail in ("", ".zh-CN"))
    blocks = [(kind, words) for kind, words, _ in BLOCK.findall(english)]
    assert [(kind, words) for kind, words, _ in BLOCK.findall(chinese)] == [
        (kind, words.replace(" en", " zh")) for kind, words in blocks
    ]
    for stage in STAGES:
        assert ("measured", f"{stage} en") in blocks


def test_nothing_outside_imports_the_stages() -> None:
    outside = [
        module
        for folder in ("service", "loadtest", "native", "docker")
        for module in (ROOT / folder).rglob("*.py")
        if ROOT / "service/stages" not in module.parents
    ]
    assert len(outside) > 30
    assert [module for module in outside if any(name.startswith("service.stages") for name in imports(module))] == []


def test_compose_passes_every_setting_on() -> None:
    compose = (ROOT / "compose.yaml").read_text()
    server = compose.partition("\n  server:\n")[2].partition("\n  loadtest:\n")[0]
    assert [name for name in SETTINGS if not re.search(rf"^      {name}:", server, re.MULTILINE)] == []


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", README, re.MULTILINE))
    assert {name for pair in used for name in pair if name} <= targets


def test_make_alone_prints_every_target_with_a_sentence() -> None:
    printed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert len(targets) > 10
    for target in targets:
        assert re.search(rf"make {target} +\S+ \S+", printed), target


def test_every_variable_of_the_example_is_a_setting() -> None:
    example = (ROOT / ".env.example").read_text()
    names = set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))
    assert names <= {*SETTINGS, "PORT", "JOBS_DIR", "STOP_GRACE"}


def test_the_limits_that_nginx_and_the_server_share_are_the_same() -> None:
    assert Config.__dataclass_fields__["body_max"].default == 1 << 20
    assert "client_max_body_size 1m;" in (ROOT / "nginx/limits.conf").read_text()


def test_it_is_nginx_that_gives_up_a_client_which_falls_silent() -> None:
    from service.handlers.ndjson import SILENCE

    (seconds,) = re.findall(r"client_body_timeout (\d+)s;", (ROOT / "nginx/timeouts.conf").read_text())
    assert int(seconds) + 4 < SILENCE  # whichever of them stands still for a while


def test_nginx_lets_go_of_idle_connections_before_the_server_does() -> None:
    from service.producer import IDLE_TIMEOUT, LET_GO

    (seconds,) = re.findall(r"keepalive_timeout (\d+)s;", (ROOT / "nginx/upstream.conf").read_text())
    assert int(seconds) < LET_GO < IDLE_TIMEOUT


def test_what_a_check_says_last_is_what_the_stack_waits_for() -> None:
    from service.__main__ import CHECKED

    assert f'CHECKED = "{CHECKED}"' in (ROOT / "native/settings.py").read_text()
    assert CHECKED in (ROOT / "docker/deploy.sh").read_text()


def test_the_readme_names_every_metric() -> None:
    from service.backlog.aio import Status
    from service.census import counters, gauges
    from service.metrics import Metrics

    families = [*gauges(Status({}, None, [], [], 0), 0.0, 0.0), *counters({}, []), *Metrics([]).families({})]
    suffix = {"counter": "_total", "info": "_info"}
    told = {family.name.removeprefix("stormdrain_") + suffix.get(family.type, "") for family in families}
    table = README.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)} == told


def test_what_is_full_is_up_for_whoever_starts_it() -> None:
    from service.errors import BacklogFull, StoreFull

    for slug in (BacklogFull.slug, StoreFull.slug):
        assert f'"/problems/{slug}"' in (ROOT / "native/ready.py").read_text()
    assert {BacklogFull.slug, StoreFull.slug} == {"backlog-full", "disk-full"}
    assert "/problems/(backlog|disk)-full" in (ROOT / "compose.yaml").read_text()


def test_no_line_asks_nginx_to_replay_what_enqueues() -> None:
    for file in (ROOT / "nginx").glob("*.conf"):
        directives = [line.partition("#")[0] for line in file.read_text().splitlines()]
        assert not [line for line in directives if "non_idempotent" in line], file


def imports(module: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("handlers/*.py", ["service.executor", "service.runner", "service.retry"]),
        ("consumer.py", ["service.handlers", "tornado"]),
        ("executor.py", ["service.backlog", "service.handlers", "service.consumer", "tornado"]),
        ("metrics.py", ["service.backlog", "service.handlers", "service.consumer", "service.executor", "asyncio"]),
        ("motion.py", ["service.backlog", "service.handlers", "service.consumer", "service.executor", "asyncio"]),
        ("retry.py", ["service.backlog", "service.executor", "service.handlers", "asyncio"]),
        ("backlog/s*.py", ["service.handlers", "service.consumer", "service.executor", "asyncio"]),
        ("backlog/memory.py", ["service.handlers", "service.consumer", "service.executor", "asyncio"]),
        ("runner.py", ["service.backlog", "service.handlers", "tornado", "asyncio"]),
    ],
)
def test_imports_point_the_way_data_flows(module: str, never: list[str]) -> None:
    modules = list((ROOT / "service").glob(module))
    assert modules
    found = set().union(*map(imports, modules))
    assert [name for name in found if any(name == n or name.startswith(n + ".") for n in never)] == []


def test_the_lock_files_pin_everything_with_hashes_and_name_no_index() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "index-url" not in text
        assert "://" not in text
        pins = re.findall(r"^[a-z][^ ]*", text, re.MULTILINE)
        assert pins
        assert all("==" in pin for pin in pins)
        assert text.count("--hash=sha256:") >= len(pins)


def test_the_script_calls_what_the_package_would_install() -> None:
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["stormdrain"]
    module, _, function = target.partition(":")
    script = (ROOT / "native/stormdrain").read_text()
    assert f"from {module} import {function}\nsys.exit({function}())" in script


def test_every_package_is_in_the_list_that_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {file for package in ("service", "loadtest") for file in (ROOT / package).rglob("__init__.py")}
    assert set(listed) == {".".join(file.parent.relative_to(ROOT).parts) for file in there}


def test_the_client_imports_nothing_of_the_server() -> None:
    shared = {"service", "service.exits", "service.cli", "service.client"}
    for folder in ("client", "cli"):
        for module in (ROOT / "service" / folder).glob("*.py"):
            ours = {name for name in imports(module) if name.split(".")[0] == "service"}
            assert {name for name in ours if ".".join(name.split(".")[:2]) not in shared} == set(), module
