"""The stack without Docker: supervisord, which runs nginx and two servers. `make up STACK=native` calls this.

    up      set up what is missing, start, wait until it is ready
    deploy  new code, settings and nginx configuration, one server after the other, while the rest serves
    down    stop: drain, then end; nothing of the stack is left
    status  what runs
    logs    follow the logs
    setup   only the virtual environment
    key NAME [--scopes …], key --revoke ID   create an API key, which is printed once; revoke one
    layout  only the folders and nginx's configuration
    backup FILE, restore FILE   copy the backlog, also while it is used; put a copy in its place

Only the standard library: this runs before anything is installed."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VAR = Path(os.environ.get("VAR_DIR") or ROOT / "var").resolve()
PORT = os.environ.get("PORT") or "8080"
BIND = os.environ.get("BIND") or "127.0.0.1"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would look for its own loopback
HERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(BIND, BIND)  # where this machine reaches what listens there
URL = f"http://{HERE}:{PORT}"

SUPERVISORD_LOG = VAR / "log/supervisord.log"
SETTINGS = VAR / "run/settings.json"  # the environment of every server that starts from now on
SERVERS = 2  # so that one serves while the other is replaced

CHECKED = "the settings and the jobs are good"  # what `python -m service check` says last
# What a deployment must not lose because somebody forgot to say it.
KEPT = {
    "API_KEYS_FILE": "To ask for no keys any more: make down, then make up",
    "JOBS": "For the jobs that come with it: JOBS=service.jobs",
    "CALLBACK_SECRET": "To tell nobody any more of jobs that wait: make down, then make up",
}
# Why a server can be up and say 503 all the same. It refuses jobs then, and runs those that it has.
FULL = ("/problems/backlog-full", "/problems/disk-full")
READY_TIMEOUT = 60.0  # seconds
PID_TIMEOUT = 5.0
STOP_MARGIN = 8  # seconds beyond DRAIN: the master's grace, and a little
SOCKET_PATH_MAX = 107  # bytes, unix(7)
LOG_MAX = "50MB"


def fail(sentence: str) -> NoReturn:
    sys.exit(f"stack: {sentence}")


def say(sentence: str) -> None:
    print(sentence, flush=True)


def up() -> None:
    if pid():
        fail(f"it runs already, as process {pid()}: `make deploy` brings new code and settings, `make down` stops it")
    stop_leftovers()
    check_port()
    setup()
    check_settings("not started")
    nginx = find_nginx() or install_nginx()
    lay_out(nginx)
    store_settings(json.dumps(environment()))
    logged = size(SUPERVISORD_LOG)
    subprocess.run([venv("supervisord"), "-c", ROOT / "native/supervisord.conf"], env=environment(nginx), check=True)
    wait_until_ready(logged)
    example = (
        '{"job": "NAME", "args": {}}' if os.environ.get("JOBS") else '{"job": "primes", "args": {"limit": 100000}}'
    )
    say(f"ready: {URL}   try:\n  curl -i {URL}/jobs -d '{example}'")


def deploy() -> None:
    """Nothing is stopped before the new settings and nginx's configuration are found good."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    running_settings()  # tells what is amiss, a stack that does not run for instance
    with alone():
        before = running_settings()
        setup()
        check_settings("not deployed")
        reload_nginx(find_nginx() or fail("nginx is missing: its new configuration cannot be checked"))
        store_settings(json.dumps(environment()))
        # One that does not serve comes first: or the only one that does would be stopped.
        for number in sorted(range(SERVERS), key=server_ready):
            replace(number, before)
    say(f"deployed: {SERVERS} new servers, ready at {URL}")


def running_settings() -> str:
    """What the servers were started with, as it is stored."""
    if not pid():
        fail("nothing runs that could be replaced: start it with `make up`")
    if not SETTINGS.exists():
        fail("what runs is of a release that could not be replaced under load: make down, then make up, this once")
    running = {"BIND": "127.0.0.1"} | json.loads(SETTINGS.read_text())  # a release before had no other
    for name, now in (("PORT", PORT), ("BIND", BIND), ("STOP_SECONDS", environment()["STOP_SECONDS"])):
        if running[name] != now:
            setting = name.replace("STOP_SECONDS", "DRAIN")
            fail(f"{setting} is not what the stack was started with, and needs a new start: make down, then make up")
    for name in KEPT:
        if running.get(name) and not environment().get(name):
            fail(f"{name} is not set, and is where the stack runs: set it, in .env for instance. {KEPT[name]}")
    return SETTINGS.read_text()


def store_settings(text: str) -> None:
    """At once: supervisord may start a server in this very moment, which reads them."""
    new = SETTINGS.with_suffix(".new")
    new.write_text(text)
    new.replace(SETTINGS)


@contextmanager
def alone() -> Iterator[None]:
    """Two deployments at once would stop both servers."""
    with (VAR / "run/deploy.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail("another deployment is under way")
        yield


def reload_nginx(nginx: str) -> None:
    lay_out(nginx)
    if subprocess.run([ROOT / "nginx/reload.sh", f"{VAR}/nginx/", VAR / "nginx/nginx.conf", nginx]).returncode:
        fail("not deployed, see above")
    say("nginx has read its configuration anew")


def replace(number: int, before: str) -> None:
    say(f"server {number}: draining, then a new one")
    if not restart(number):
        store_settings(before)
        say(f"server {number}: the new one does not get ready; going back to the settings of before")
        state = "serves again" if restart(number) else "does not start either"
        fail(
            f"not deployed: a new server did not get ready, see {server_log(number)}; as it was set before, it {state}"
        )
    say(f"server {number}: the new one is ready")


def restart(number: int) -> bool:
    """Whether the new one got ready."""
    try:
        return stop_and_start(number)
    except KeyboardInterrupt:  # or half of the servers would be missing, and nobody told
        supervisorctl("start", f"server:server_{number}")
        fail(f"interrupted: server {number} is started again, the deployment is not finished")


def stop_and_start(number: int) -> bool:
    supervisorctl("stop", f"server:server_{number}")  # returns when it has ended
    if not supervisorctl("start", f"server:server_{number}"):
        return False
    deadline = time.monotonic() + READY_TIMEOUT
    while not server_ready(number):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def down() -> None:
    running = pid()
    if running is None:
        return say("stopped" if stop_leftovers() else "nothing runs")
    supervisorctl("shutdown")
    deadline = time.monotonic() + float(environment()["STOP_SECONDS"]) + 20
    while is_supervisord(running):  # its pid file is gone a moment before it is
        if time.monotonic() > deadline:
            fail(f"supervisord, process {running}, does not end: see {VAR}/log/")
        time.sleep(0.05)
    stop_leftovers()
    say("stopped")


def status() -> None:
    if pid() is None:
        fail("nothing runs: start it with `make up`")
    supervisorctl("status")
    for path in ("/readyz", "/stats"):
        say(f"{path} {answer(path)[1]}")


def logs() -> None:
    files = sorted((VAR / "log").glob("*.log"))
    if not files:
        fail("there are no logs yet: start the stack with `make up`")
    with suppress(KeyboardInterrupt):
        subprocess.run(["tail", "-n", "50", "-F", *files], check=False)


def key(*arguments: str) -> None:
    with redirect_stdout(sys.stderr):  # only the key goes there
        setup()
    sys.exit(subprocess.run([venv("python"), "-m", "service", "key", *arguments], env=environment()).returncode)


def backup(file: str = "") -> None:
    copy_backlog("backup", file)


def restore(file: str = "") -> None:
    copy_backlog("restore", file)


def copy_backlog(direction: str, file: str) -> None:
    if not file:
        fail(f"which file? make {direction} FILE=…")
    if direction == "restore" and pid():
        fail("the stack runs: stop it first, with make down")
    setup()
    sys.exit(subprocess.run([venv("python"), "-m", "service", direction, file], env=environment()).returncode)


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


def venv(program: str) -> Path:
    return VENV / "bin" / program


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


def check_settings(otherwise: str) -> None:
    try:
        done = subprocess.run(
            [venv("python"), "-m", "service", "check"],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
            timeout=READY_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        fail(f"{otherwise}: importing {os.environ.get('JOBS') or 'the jobs'} takes more than {READY_TIMEOUT:.0f} s")
    if done.returncode:
        fail(f"{otherwise}, see above")
    if CHECKED not in done.stdout:
        fail(f"{otherwise}: importing {os.environ.get('JOBS') or 'the jobs'} ends the process")


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
    check = [nginx, "-t", "-q", "-p", f"{VAR}/nginx/", "-c", VAR / "nginx/nginx.conf"]
    if subprocess.run(check, cwd=VAR / "nginx").returncode:
        fail("nginx refuses its configuration, see above")


def link_includes() -> None:
    """nginx looks for an include beside its entry file. Links, so that an edit and a reload are enough."""
    for include in set((ROOT / "nginx").glob("*.conf")) - {ROOT / "nginx/nginx.conf", ROOT / "nginx/native.conf"}:
        link = VAR / "nginx" / include.name
        link.unlink(missing_ok=True)
        link.symlink_to(include)


def environment(nginx: str = "") -> dict[str, str]:
    try:
        drain = int(float(os.environ.get("DRAIN") or 20))
    except (ValueError, OverflowError):
        fail(f"DRAIN is {os.environ['DRAIN']!r}: use a number of seconds")
    jobs, keys = os.environ.get("JOBS_DIR"), os.environ.get("API_KEYS_FILE")
    return os.environ | {
        "VAR": str(VAR),
        "VAR_DIR": str(VAR),  # for what supervisord runs, which is this script again
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


def server_socket(number: int) -> Path:
    return VAR / f"run/server_{number}.sock"


def server_log(number: int) -> Path:
    return VAR / f"log/server_{number}.log"


def supervisorctl(*arguments: str) -> bool:
    command = [venv("supervisorctl"), "-c", ROOT / "native/supervisord.conf", *arguments]
    return subprocess.run(command, env=environment(), check=False).returncode == 0


def pid() -> int | None:
    """supervisord's process id, if it runs."""
    with suppress(OSError, ValueError):
        found = int((VAR / "run/supervisord.pid").read_text())
        if is_supervisord(found):
            return found
    return None


def leftovers() -> list[int]:
    """Processes of this stack that somebody's kill left behind. They carry its VAR in their environment; nginx writes
    its title over that, and is known by the folder it stands in."""
    mark = f"\0VAR={VAR}\0".encode()
    found = nginx_processes()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in b"\0" + (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def nginx_processes() -> list[int]:
    """Master and workers of this stack's nginx."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            program, folder = ((process / link).readlink() for link in ("exe", "cwd"))
            if program.name.startswith("nginx") and folder == VAR / "nginx":
                found.append(int(process.name))
    return found


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


def run_server(number: str) -> NoReturn:
    """What supervisord starts. Its own environment is that of `make up`; a deployment may have brought another."""
    settings = json.loads(SETTINGS.read_text()) | {"LISTEN": f"unix:{server_socket(int(number))}"}
    os.execvpe("python", ["python", "-m", "service", "serve"], settings)


def stop_leftovers() -> bool:
    """Whether there were any. They drain as at any stop."""
    SETTINGS.unlink(missing_ok=True)  # nobody reads it any more, and it may hold a secret
    if not leftovers():
        return False
    say("stopping what was left behind")
    deadline = time.monotonic() + float(environment()["STOP_SECONDS"])
    signal_leftovers(signal.SIGTERM)
    while leftovers():
        if time.monotonic() > deadline:
            signal_leftovers(signal.SIGKILL)
        time.sleep(0.1)
    return True


def signal_leftovers(signum: int) -> None:
    for process in leftovers():
        with suppress(ProcessLookupError):
            os.kill(process, signum)


def is_supervisord(process: int) -> bool:
    """Not whoever got the number after it."""
    with suppress(OSError):
        return b"supervisord" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def authorization() -> dict[str, str]:
    key = os.environ.get("STORMDRAIN_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def answer(path: str) -> tuple[int, str]:
    try:
        with DIRECT.open(urllib.request.Request(URL + path, headers=authorization()), timeout=3) as response:
            return response.status, response.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()
    except OSError as error:
        return 0, str(error)


class SocketConnection(http.client.HTTPConnection):
    """HTTP by a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=3)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def is_ready(status: int, body: str) -> bool:
    """Also when it is full: or what is full could not be started, and not be replaced."""
    with suppress(ValueError):
        return status == 200 or json.loads(body).get("type") in FULL
    return False


def server_ready(number: int) -> bool:
    """Asked past nginx, which would ask another."""
    connection = SocketConnection(server_socket(number))
    with suppress(OSError, http.client.HTTPException), closing(connection):
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return is_ready(response.status, response.read().decode())
    return False


def wait_until_ready(logged: int) -> None:
    started = time.monotonic()
    while not all(map(server_ready, range(SERVERS))) or not is_ready(*answer("/readyz")):
        waited = time.monotonic() - started
        # supervisord writes its pid file a moment after it has let go of us
        if server_failed(logged) or waited > READY_TIMEOUT or (waited > PID_TIMEOUT and pid() is None):
            give_up()
        time.sleep(0.1)


def server_failed(logged: int) -> bool:
    """The master gave up, and supervisord after it. What was logged before this start says nothing of it."""
    with suppress(FileNotFoundError), SUPERVISORD_LOG.open() as log:
        log.seek(logged if size(SUPERVISORD_LOG) >= logged else 0)
        return "entered FATAL state" in log.read()
    return False


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def give_up() -> NoReturn:
    for log in (*map(server_log, range(SERVERS)), VAR / "log/nginx.log"):
        if log.exists():
            lines = log.read_text(errors="replace").splitlines()[-15:]
            say("\n".join([f"--- the last lines of {log}", *lines]))
    down()
    fail("the stack did not get ready, see above")


def layout() -> None:
    """For whoever starts nginx and what is behind it otherwise."""
    lay_out(find_nginx() or install_nginx())


COMMANDS = {
    "layout": layout,
    "up": up,
    "deploy": deploy,
    "down": down,
    "status": status,
    "logs": logs,
    "setup": setup,
    "key": key,
    "backup": backup,
    "restore": restore,
    "nginx": run_nginx,
    "server": run_server,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"{__doc__}")
    try:
        COMMANDS[sys.argv[1]](*sys.argv[2:])
    except PermissionError as error:
        fail(f"{error.filename}: permission denied; {VAR} belongs to another user? Set VAR_DIR to a folder of yours")
