"""Saturation: as many requests as 64 connections can have, by wrk."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from ..exits import Unusable

CONNECTIONS = 64
SCRIPT = Path(__file__).with_name("post.lua")
SLACK = 30.0  # seconds beyond its own time


class Saturation(NamedTuple):
    rate: float  # answers with 2xx per second
    p50: float  # milliseconds
    p99: float


def check() -> None:
    if not shutil.which("wrk"):
        raise Unusable("wrk is missing: install it with your system's package manager (apt-get install wrk).")


def saturate(url: str, body: str, seconds: float) -> Saturation:
    """POST `body` to url/jobs. Raises Unusable where anything but 2xx came back: that would be no rate of accepts."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(SCRIPT), f"{url}/jobs"]
    done = subprocess.run(
        command, env=os.environ | {"BODY": body}, capture_output=True, text=True, timeout=seconds + SLACK
    )
    if done.returncode:
        raise Unusable(f"wrk: {(done.stdout + done.stderr).strip()[-500:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    if said["refused"] or said["failed"] or not said["requests"]:
        raise Unusable(f"wrk: {said['refused']} of {said['requests']} were refused, {said['failed']} failed.")
    return Saturation(said["requests"] / said["microseconds"] * 1e6, said["p50"] / 1000, said["p99"] / 1000)
