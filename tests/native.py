"""The stack on the bare machine, as several tests use it: by the Makefile, or another nginx before stubs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support import ROOT, Client, descendants, free_port, serves, wait_until


class Stack(Client):
    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")

    def make(self, *target: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
        with self.making(*target) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def making(self, *target: str) -> subprocess.Popen[str]:
        """In a process group of its own, which a terminal would interrupt as a whole."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        return subprocess.Popen(
            ["make", *target],
            cwd=ROOT,
            env=outside | {"STACK": "native", "PORT": str(self.port), "VAR_DIR": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def servers(self) -> list[psutil.Process]:
        """The masters."""
        return [p for p in self.processes()[0].children() if serves(p)]

    @contextmanager
    def load(self) -> Iterator[None]:
        """One load after the other for as long as the block takes; every request of all of them is accepted."""
        done = threading.Event()
        outcomes: list[subprocess.CompletedProcess[str]] = []

        def loads() -> None:
            while not done.is_set():
                outcomes.append(self.make("loadtest", "N=1500", "CLIENTS=10", "JOB=noop", timeout=200))

        before = self.stats()["states"]["succeeded"]
        thread = threading.Thread(target=loads)
        thread.start()
        try:
            wait_until(lambda: self.stats()["states"]["succeeded"] > before + 20, "the load runs", 60)
            yield
        finally:
            done.set()
            thread.join()
        for outcome in outcomes:
            assert "100.0% request success!" in outcome.stdout, outcome.stdout
            assert "accepted 1500 = succeeded 1500 " in outcome.stdout, outcome.stdout

    def processes(self) -> list[psutil.Process]:
        master = psutil.Process(int((self.folder / "run/supervisord.pid").read_text()))
        return [master, *descendants(master.pid)]


class Stub:
    """An upstream that reads the whole request, counts it, and hangs up without an answer."""

    def __init__(self, path: Path) -> None:
        self.hits: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                self.hits.append(connection.recv(65536))


@contextmanager
def nginx_before(stack: Stack, *upstreams: Path) -> Iterator[int]:
    """Another nginx with the stack's configuration, before these upstreams; gives its port."""
    prefix, port = upstreams[0].parent, free_port()
    for include in (stack.folder / "nginx").glob("*.conf"):
        (prefix / include.name).write_text(include.read_text())
    servers = "".join(f"server unix:{path} max_fails=0;" for path in upstreams)
    conf = (prefix / "nginx.conf").read_text().replace(str(stack.port), str(port))
    for number in range(2):
        conf = conf.replace(f'server "unix:{stack.folder}/run/server_{number}.sock" max_fails=0;', servers)
        servers = ""
    (prefix / "nginx.conf").write_text(conf)
    nginx = find_nginx()
    with (prefix / "log").open("w") as log:
        process = subprocess.Popen(
            [nginx, "-p", f"{prefix}/", "-c", f"{prefix}/nginx.conf"], cwd=prefix, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: listens(port), "nginx listens")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def find_nginx() -> str:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"])
    assert nginx
    return nginx


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
