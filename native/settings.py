"""Where the stack on the bare machine is, and what its servers are told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VAR = Path(os.environ.get("VAR_DIR") or ROOT / "var").resolve()
PORT = os.environ.get("PORT") or "8080"
BIND = os.environ.get("BIND") or "127.0.0.1"
SETTINGS = VAR / "run/settings.json"  # the environment of every server that starts from now on
SERVERS = 2  # so that one serves while the other is replaced

CHECKED = "the settings and the jobs are good"  # what `python -m service check` says last
READY_TIMEOUT = 60.0  # seconds
STOP_MARGIN = 8  # seconds beyond DRAIN: the master's grace, and a little
LOG_MAX = "50MB"


def fail(sentence: str) -> NoReturn:
    sys.exit(f"stack: {sentence}")


def say(sentence: str) -> None:
    print(sentence, flush=True)


def venv(program: str) -> Path:
    return VENV / "bin" / program


def server_socket(number: int) -> Path:
    return VAR / f"run/server_{number}.sock"


def server_log(number: int) -> Path:
    return VAR / f"log/server_{number}.log"


def environment(nginx: str = "") -> dict[str, str]:
    try:
        drain = int(float(os.environ.get("DRAIN") or 20))
    except (ValueError, OverflowError):
        fail(f"DRAIN is {os.environ['DRAIN']!r}: use a number of seconds")
    jobs, keys = os.environ.get("JOBS_DIR"), os.environ.get("API_KEYS_FILE")
    return os.environ | {
        "VAR": str(VAR),
        "VAR_DIR": str(VAR),  # for what supervisord runs, which is stack.py again
        "PORT": PORT,
        "BIND": BIND,
        "STORMDRAIN_KEY": "",  # `make status` and the load generator ask with it; no server is to know it
        "API_KEYS_FILE": str(Path(keys).absolute()) if keys else "",
        "ROOT": str(ROOT),
        "NGINX_PROGRAM": nginx,
        "PATH": f"{VENV}/bin:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *([str(Path(jobs).resolve())] if jobs else [])]),
        "LISTEN": f"unix:{server_socket(0)}",
        "BACKLOG": f"sqlite:{VAR}/data/backlog.db",
        "STOP_SECONDS": str(drain + STOP_MARGIN),
        "SERVER_LOG_MAX": LOG_MAX,
        "SERVERS": str(SERVERS),
    }


def run_service(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command that is no part of what runs: VAR, by which a stop knows what was left behind, would end it too."""
    own = {name: value for name, value in environment().items() if name != "VAR"}
    return subprocess.run([venv("python"), "-m", "service", *arguments], env=own, text=True, **options)


def check_settings(otherwise: str) -> None:
    jobs = os.environ.get("JOBS_DIR")
    if jobs and not Path(jobs).is_dir():
        fail(f"{otherwise}: JOBS_DIR is {jobs}, which is no folder")
    try:
        done = run_service("check", stdout=subprocess.PIPE, timeout=READY_TIMEOUT)
    except subprocess.TimeoutExpired:
        fail(f"{otherwise}: importing {os.environ.get('JOBS') or 'the jobs'} takes more than {READY_TIMEOUT:.0f} s")
    if done.returncode:
        fail(f"{otherwise}, see above")
    if CHECKED not in done.stdout:
        fail(f"{otherwise}: importing {os.environ.get('JOBS') or 'the jobs'} ends the process")


def store_settings(text: str) -> None:
    """At once: supervisord may start a server in this very moment, which reads them."""
    new = SETTINGS.with_suffix(".new")
    new.write_text(text)
    new.replace(SETTINGS)
