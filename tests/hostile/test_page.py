"""What a browser makes of it: nothing that a client has said is run, nothing is asked from elsewhere, and no other
site's page can send a job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests

from tests.native import Stack
from tests.support import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(400),  # a dozen browsers, one after the other
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium"),
]

PWNED = "pwned-by-a-job"
SCRIPT = f"document.title='{PWNED}';document.body.append('{PWNED}'.toUpperCase())"
TEXTS = [
    f"<script>{SCRIPT}</script>",
    f'"><img src=x onerror="{SCRIPT}">',
    f'</title></pre></textarea></style><svg onload="{SCRIPT}">',
    f"javascript:{SCRIPT}",
    "<img src=http://outside.invalid/x><link rel=stylesheet href=//outside.invalid/y>",
    "<meta http-equiv=refresh content='0;url=http://outside.invalid/'>",
    "<iframe src=http://outside.invalid/></iframe><base href=http://outside.invalid/>",
    "\u202e\x1b[31m\x00",
]


@dataclass
class Visit:
    document: str
    asked: list[tuple[str, str]]  # (initiator, address) of each request that a page has caused
    console: list[str]


@pytest.fixture
def submitted(front: Stack) -> list[str]:
    """Jobs that say it in their names, arguments, results, errors and output. Those that failed."""
    failing = []
    for text in TEXTS:
        requests.post(f"{front.url}/jobs", json={"job": text}, timeout=10)
        for job, argument in (("noop", "job_id"), ("prints", "text"), ("open_ended", text)):
            front.wait_for(front.submit(job, **{argument: text}), "succeeded")
        failing.append(front.submit("raises", message=text))
        front.wait_for(failing[-1], "failed")
    return failing


def visit(url: str, folder: Path, picture: Path | None = None) -> Visit:
    """As a person would, with a new profile. Nothing outside this machine is found by any name."""
    net = folder / "net.json"
    assert CHROMIUM
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={folder}/profile", f"--log-net-log={net}", "--enable-logging=stderr", "--dump-dom"]
    command += [
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    ]
    command += ["--virtual-time-budget=3000", *([f"--screenshot={picture}"] if picture else []), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=os.environ | {"HOME": str(folder)})
    assert done.returncode == 0, done.stderr
    log = json.loads(net.read_text())
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event["params"] for event in log["events"] if event["type"] == start and "url" in event.get("params", {})]
    asked = [(job["initiator"], job["url"]) for job in jobs if job["initiator"] != "not an origin"]
    return Visit(done.stdout, asked, [line for line in done.stderr.splitlines() if "CONSOLE" in line])


def test_a_page_runs_nothing_of_a_jobs_and_asks_nothing_from_elsewhere(
    front: Stack, submitted: list[str], tmp_path: Path
) -> None:
    pages = ["/", *submitted, "/nothing/<script>alert(1)</script>", "/stats"]
    if requests.get(f"{front.url}/docs", headers={"Accept": "text/html"}, timeout=10).status_code == 200:
        pages.append("/docs")
    for number, page in enumerate(pages):
        folder = tmp_path / str(number)
        folder.mkdir()
        seen = visit(front.url + page, folder, tmp_path / f"{number}.png")
        assert f"<title>{PWNED}</title>" not in seen.document, page
        assert PWNED.upper() not in seen.document, page
        assert [address for _, address in seen.asked if not address.startswith(f"{front.url}/")] == [], page
        assert [line for line in seen.console if "Content Security Policy" in line and "favicon" not in line] == [], (
            page
        )
        assert (tmp_path / f"{number}.png").stat().st_size > 1000
    assert "<title>Stormdrain</title>" in visit(front.url, tmp_path).document


@contextmanager
def another_site(page: str) -> Iterator[str]:
    """`localhost` is another site than 127.0.0.1, where the stack is."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *arguments: object) -> None:
            """Not on the console of the tests."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}/"
        server.shutdown()


def test_another_sites_page_sends_no_job_but_may_link_here(front: Stack, tmp_path: Path) -> None:
    job = '{"job":"noop","args":{"job_id":"of-another-site"}}'
    tries = "".join(
        f"fetch('{front.url}{path}',{{method:'POST',mode:'no-cors',body:{body}}});"
        for path in ("/jobs", "/")
        for body in (f"new Blob(['{job}'])", f"'{job}'", 'new Blob([\'{"job_id":"of-another-site"}\'])')
    )
    form = (
        f"<form id=f method=post enctype=text/plain action='{front.url}/jobs'><input name='{job[:-3]}' value='\"}}}}'>"
    )
    before = sum(front.stats()["states"].values())
    for number, page in enumerate((f"<script>{tries}</script>", f"{form}</form><script>f.submit()</script>")):
        with another_site(page) as url:
            (tmp_path / str(number)).mkdir()
            seen = visit(url, tmp_path / str(number))
        assert any(address.startswith(front.url) for _, address in seen.asked), seen.asked
    refused = [line for line in access_log(front) if '"status":403' in line and "HeadlessChrome" in line]
    assert len(refused) >= 7
    assert sum(front.stats()["states"].values()) == before
    with another_site(f"<script>location.href='{front.url}/'</script>") as url:
        assert "<title>Stormdrain</title>" in visit(url, tmp_path).document


def access_log(stack: Stack) -> list[str]:
    """All of it up to now."""
    last = os.urandom(8).hex()
    requests.get(f"{stack.url}/healthz", headers={"X-Request-ID": last}, timeout=10)
    log = stack.folder / "log/nginx.log"
    wait_until(lambda: last in log.read_text(errors="replace"), "nginx has written its log", 10)
    return log.read_text(errors="replace").splitlines()
