"""What the kernel is asked to do, seen and disturbed by strace: the product runs as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psutil
import requests

from tests.faults.faulty import NEEDS_STRACE, file_of, stored, strace
from tests.support import Server, answers, server, wait_until

pytestmark = NEEDS_STRACE

MARK = "a-job-to-look-for"


def post(it: Server, job_id: str) -> requests.Response:
    return requests.post(f"{it.url}/jobs", json={"job": "noop", "args": {"job_id": job_id}}, timeout=20)


def test_a_job_is_written_then_flushed_then_answered(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "trace=pwrite64,write,writev,fdatasync,fsync,sendto,sendmsg"
    with server(tmp_path, PRODUCERS="1") as it:
        it.wait_for(it.submit("noop"), "succeeded")
        with strace(it.producers()[0], trace, "-y", "-s", "6000", "-e", calls):
            assert post(it, MARK).status_code == 202
    lines = trace.read_text().splitlines()
    written = first(lines, 0, rf'pwrite64\(\d+<[^>]*-wal>, ".*{MARK}')
    thread = lines[written].split()[0]
    flushing = first(lines, written, rf"^{thread} +f(data)?sync\(\d+<[^>]*-wal>")
    flushed = first(lines, flushing, rf"^{thread} +(f(data)?sync\(.*|<\.\.\. f(data)?sync resumed>.*)\) += 0$")
    answer = first(lines, 0, r'(sendto|sendmsg|write|writev)\(.*"HTTP/1\.1 202 ')
    assert written < flushing <= flushed < answer


def first(lines: list[str], start: int, pattern: str) -> int:
    """The number of the first line from `start` on that matches."""
    found = [n for n in range(start, len(lines)) if re.search(pattern, lines[n])]
    assert found, f"{pattern} is not in\n" + "\n".join(line[:150] for line in lines)
    return found[0]


def test_a_flush_that_fails_is_never_a_202_and_the_next_producer_serves(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", DRAIN="1") as it, it.connection() as connection:
        accepted = [it.submit("noop", job_id=n) for n in range(5)]
        (producer,) = it.producers()
        # A sweep would find the fault first, and the next producer answer: so it stands still until it has both.
        psutil.Process(producer).suspend()
        with strace(producer, tmp_path / "trace", "-e", "inject=fsync,fdatasync:error=EIO"):
            connection.request("POST", "/jobs", '{"job": "noop", "args": {"job_id": "doomed"}}')
            psutil.Process(producer).resume()
            response = connection.getresponse()
            problem = json.loads(response.read())
            assert response.status in (503, 504), problem
            assert response.headers["Content-Type"] == "application/problem+json"
            wait_until(lambda: not answers(f"{it.url}/readyz") or it.producers() != [producer], "it is not ready")
            wait_until(lambda: not psutil.pid_exists(producer), "the producer has ended", 10)
        wait_until(lambda: answers(f"{it.url}/readyz"), "another one is ready")
        accepted.append(it.submit("noop", job_id="after"))
        for location in accepted:
            assert it.wait_for(location, "succeeded")["attempt"] == 1
        assert it.stop() == 0
    rows = [row for row in stored(file_of(tmp_path)) if "doomed" not in row[0]]  # it is unknown, and may be there
    assert len(rows) == len(accepted)
