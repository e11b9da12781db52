"""The virtual environment, and the client in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from settings import ROOT, VENV, fail, say, venv


def setup(*extra: str) -> None:
    """The virtual environment, made or renewed when a lock file has changed."""
    if sys.version_info < (3, 11):
        fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make up PYTHON=/path/to/python3")
    locks = [ROOT / "requirements" / f"{name}.txt" for name in ("service", "loadtest", *extra)]
    wanted = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks) + sys.version.encode()).hexdigest()
    stamp = VENV / f".stamp-{'-'.join(lock.stem for lock in locks)}"
    if stamp.exists() and stamp.read_text() == wanted:
        return place_client()
    say("setting up .venv")
    if not (VENV / "bin/python").exists() and subprocess.run([sys.executable, "-m", "venv", VENV]).returncode:
        fail("a virtual environment cannot be made: on Debian, apt-get install python3-venv")
    arguments = [argument for lock in locks for argument in ("-r", lock)]
    subprocess.run([venv("pip"), "install", "-qq", "--require-hashes", *arguments], check=True)
    place_client()
    stamp.write_text(wanted)


def place_client() -> None:
    """The command `stormdrain`, and `from service.client import Client` in any folder, for .venv's Python. pip would do
    the same by building the project, with a build backend that no lock file pins."""
    put(venv("stormdrain"), (ROOT / "native/stormdrain").read_text(), 0o755)
    for packages in VENV.glob("lib/python3*/site-packages"):
        put(packages / "stormdrain.pth", f"{ROOT}\n", 0o644)


def put(path: Path, text: str, mode: int) -> None:
    if path.exists() and path.read_text() == text:
        return
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)
