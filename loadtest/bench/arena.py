"""The stack that is measured: the project's nginx, and behind its sockets the product, or who it is measured against.

Without supervisord, so that it also runs in a container, and so that whoever stands behind the sockets is the one
difference."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..contestant import ROOT, USERS, free_port
from ..exits import Unusable

SERVERS = 2  # as many sockets as nginx knows: one process behind each, whoever it is
SLOTS = 4  # of each producer
PRODUCT = ("service", "serve")
START_LIMIT, STOP_LIMIT = 30.0, 40.0  # seconds
LOOK = 0.01
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Arena:
    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen[bytes]] = []
        users = {name: value for name, value in os.environ.items() if name not in USERS}
        self.environment = users | {
            "VAR_DIR": str(folder),
            "PORT": str(self.port),
            "BACKLOG": f"sqlite:{folder}/data/backlog.db",
            "JOBS": "loadtest.bench.jobs",
            "PRODUCERS": "1",
            "SLOTS": str(SLOTS),
            "BACKLOG_MAX": str(1 << 40),
            "DRAIN": "0",  # what occupies the slots would hold up every stop
            "PYTHONPATH": str(ROOT),
        }

    @property
    def file(self) -> Path:
        """The product's backlog."""
        return self.folder / "data/backlog.db"

    def lay_out(self) -> None:
        """The folders, and nginx's configuration, exactly as the stack on the bare machine has them."""
        command = [sys.executable, str(ROOT / "native/stack.py"), "layout"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise Unusable(f"nginx: {(done.stdout + done.stderr).strip()}")

    def start(self, module: Sequence[str]) -> None:
        for number in range(SERVERS):
            listen = {"LISTEN": f"unix:{self.folder}/run/server_{number}.sock"}
            self.run([sys.executable, "-m", *module], self.environment | listen, f"server_{number}")
        nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") or "nginx"
        prefix = self.folder / "nginx"
        self.run([nginx, "-p", f"{prefix}/", "-c", f"{prefix}/nginx.conf"], self.environment, "nginx")
        deadline = time.monotonic() + START_LIMIT
        while not self.ready():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.processes):
                raise Unusable(f"{' '.join(module)} does not start: {self.said()}")
            time.sleep(LOOK)

    def run(self, command: Sequence[str], environment: dict[str, str], log: str) -> None:
        with (self.folder / f"log/{log}.log").open("ab") as out:
            self.processes.append(
                subprocess.Popen(
                    command, cwd=self.folder / "nginx", env=environment, stdout=out, stderr=out, start_new_session=True
                )
            )

    def ready(self) -> bool:
        """Each server, as often as nginx takes turns."""
        with suppress(OSError, Unusable):
            sockets = all((self.folder / f"run/server_{number}.sock").exists() for number in range(SERVERS))
            return sockets and all(self.ask("/readyz") for _ in range(2 * SERVERS))
        return False

    def ask(self, path: str, body: Any = None) -> Any:
        """The JSON that comes back. Raises Unusable."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with DIRECT.open(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise Unusable(f"{path} was answered {error.code}: {error.read()[:500]!r}") from None

    def said(self) -> str:
        texts = [log.read_text(errors="replace")[-1000:] for log in sorted((self.folder / "log").glob("*.log"))]
        return "\n".join(texts)

    def producers(self) -> list[int]:
        """The product's: children of the masters."""
        masters = [process.pid for process in self.processes[:SERVERS]]
        return [int(child) for pid in masters for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_LIMIT
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def arena(*module: str, backlog: Path | None = None, **settings: str) -> Iterator[Arena]:
    """`module` behind nginx, the product by default; with a copy of `backlog`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        it = Arena(Path(folder))
        it.environment |= settings
        it.lay_out()
        if backlog:
            shutil.copy(backlog, it.file)
        try:
            it.start(module or PRODUCT)
            yield it
        finally:
            it.stop()
