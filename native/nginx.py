"""nginx on the bare machine: installed, configured, started, told to read its configuration anew."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import string
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from settings import BIND, PORT, ROOT, SERVERS, VAR, fail, say, server_socket

SOCKET_PATH_MAX = 107  # bytes, unix(7)


def find_nginx() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def install_nginx() -> str:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        fail("nginx is missing: install it with your system's package manager, then run this again")
    say("installing nginx")
    with no_service_start():
        for command in (["update"], ["install", "-y", "--no-install-recommends", "nginx"]):
            done = subprocess.run(
                ["apt-get", "-q", *command],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
            )
            if done.returncode and command != ["update"]:
                fail(f"nginx could not be installed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return find_nginx() or fail("nginx was installed, but is not in the PATH")


@contextmanager
def no_service_start() -> Iterator[None]:
    """Debian starts what it installs; its nginx would take port 80. policy-rc.d is how it is told not to."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def check_port() -> None:
    if not (PORT.isascii() and PORT.isdigit()) or not 0 < int(PORT) < 65536:
        fail(f"PORT is {PORT!r}: use a number from 1 to 65535")
    with socket.socket(socket.AF_INET6 if BIND.startswith("[") else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((BIND.strip("[]"), int(PORT)))
        except OSError as error:
            why = f"on {BIND} ({error.strerror})"
            fail(f"port {PORT} cannot be had {why}: choose another, for instance make up PORT=8090")


def lay_out(nginx: str) -> None:
    """The folders below VAR, and nginx's entry file, which it then checks."""
    if len(str(VAR / "run/supervisor.sock.99999")) > SOCKET_PATH_MAX:
        fail(f"{VAR} is too long a path for a socket: set VAR_DIR to a shorter folder")
    for folder in ("run", "log", "data", "nginx"):
        (VAR / folder).mkdir(parents=True, exist_ok=True)
    VAR.chmod(0o700)  # whoever reaches the sockets is trusted
    link_includes()
    template = string.Template((ROOT / "nginx/native.conf").read_text())
    values = {
        "servers": " ".join(f'server "unix:{server_socket(n)}" max_fails=0;' for n in range(SERVERS)),
        "bind": BIND,
        "port": PORT,
        # The sockets are open to one user only, and root's workers would be another.
        "user": "user root;" if os.geteuid() == 0 else "",
    }
    (VAR / "nginx/nginx.conf").write_text(template.safe_substitute(values))
    checking = [nginx, "-t", "-q", "-p", f"{VAR}/nginx/", "-c", f"{VAR}/nginx/nginx.conf"]
    if subprocess.run(checking, cwd=VAR / "nginx").returncode:
        fail("nginx refuses its configuration, see above")


def link_includes() -> None:
    """nginx looks for an include beside its entry file. Links, so that an edit and a reload are enough."""
    for include in set((ROOT / "nginx").glob("*.conf")) - {ROOT / "nginx/nginx.conf", ROOT / "nginx/native.conf"}:
        link = VAR / "nginx" / include.name
        link.unlink(missing_ok=True)
        link.symlink_to(include)


def reload_nginx(nginx: str) -> None:
    lay_out(nginx)
    if subprocess.run([ROOT / "nginx/reload.sh", f"{VAR}/nginx/", VAR / "nginx/nginx.conf", nginx]).returncode:
        fail("not deployed, see above")
    say("nginx has read its configuration anew")


def run_nginx() -> NoReturn:
    """What supervisord starts. A killed master leaves workers that hold the port, and a socket file that holds the
    name: without this no new one could start, and nobody would notice while those workers serve."""
    for worker in nginx_processes():
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGQUIT)  # lets go of the port at once, and finishes what is under way
    for left in ("original.sock", "closing"):
        (VAR / "nginx" / left).unlink(missing_ok=True)
    nginx = os.environ["NGINX_PROGRAM"]
    os.execv(nginx, [nginx, "-p", f"{VAR}/nginx/", "-c", f"{VAR}/nginx/nginx.conf"])


def nginx_processes() -> list[int]:
    """Master and workers of this stack's nginx."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            program, folder = ((process / link).readlink() for link in ("exe", "cwd"))
            if program.name.startswith("nginx") and folder == VAR / "nginx":
                found.append(int(process.name))
    return found
