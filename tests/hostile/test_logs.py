"""Whatever clients and jobs say, the logs stay what a parser and a terminal take them for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.hostile.test_corpus import AT_ONCE, QUICK, round_of
from tests.hostile.wire import exchange, to_port
from tests.native import Stack
from tests.support import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

FORGED = "forged-by-a-client"
TEXTS = {
    "a line of the server's": f"x\n2026-11-24T00:00:00.000 ERROR 1 [-] {FORGED}",
    "a line of nginx's": f'x\r\n{{"time":"2026-11-24T00:00:00+00:00","status":200,"uri":"{FORGED}"}}',
    "the rest of a JSON line": f'","status":200,"{FORGED}":"',
    "escapes": "\x1b[2J\x1b[31m\x1b]0;title\x07\x1b]8;;http://x.invalid\x1b\\link",
    "escapes of one byte": "\x9b31m\x90q\x9c\x85",
    "control characters": "".join(map(chr, range(32))) + "\x7f",
    "backspaces": "nothing" + "\b" * 7 + "\r",
    "line separators": f"x\u2028{FORGED}\u2029{FORGED}\x85{FORGED}\x0b{FORGED}\x0c{FORGED}",
    "right to left": "\u202e\u2066\u200f txet",
    "no width": "a\u200b\ufeff\u2060b",
    "formats": "%s %d %n %(message)s {} {0.__class__} ${x} $request_id \\n \\u000a",
    "quotes": '"\'`\\\\"',
    "markup": "<script>alert(1)</script>",
    "beyond the basic plane": "🌊\U000e0041\U0010ffff",
    "long": "x" * 200_000,
    "long and wide": "雨" * 50_000,
}
FIRST = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING|ERROR) \d+ \[[A-Za-z0-9-]+\] \S"
NGINX = rb"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[[a-z]+\] \d+#\d+: \S"
ACCESS = {"time", "request_id", "client", "method", "uri", "status", "bytes", "seconds", "upstream", "agent"}
LINE_MAX = 20_000  # bytes
PATIENCE = 3.0  # seconds; nginx lingers with who has not sent the body that it refuses


def submissions() -> Iterator[tuple[str, dict[str, object]]]:
    for text in TEXTS.values():
        yield "/jobs", {"job": text}
        yield "/jobs", {"job": "noop", "args": {"job_id": text}}
        yield "/jobs", {"job": "noop", "args": {"job_id": {text: [text]}}}
        yield "/jobs", {"job": "noop", "args": {text: 1}}
        yield "/jobs", {"job": "noop", text: 1}
        yield "/jobs", {"job": "open_ended", "args": {text: text}}
        yield "/jobs", {"job": "raises", "args": {"message": text}}
        yield "/jobs", {"job": "raises_named", "args": {"name": text}}
        yield "/jobs", {"job": "prints", "args": {"text": text}}
        yield "/", {"job_id": text}


def headers() -> Iterator[bytes]:
    """As raw bytes, which no client library would send."""
    for text in TEXTS.values():
        value = text.encode()[:4000].replace(b"\r", b" ").replace(b"\n", b" ")
        yield b"GET /healthz?" + value.replace(b" ", b"+") + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        yield b"GET /healthz HTTP/1.1\r\nHost: " + value.replace(b" ", b"") + b"\r\nConnection: close\r\n\r\n"
        for name in (b"User-Agent", b"Referer", b"X-Request-ID", b"Idempotency-Key", b"Content-Type", b"Authorization"):
            # Too large, so that nginx has something to say about it, too.
            for length in (b"2", b"9999999"):
                head = b"POST /jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " + length
                yield head + b"\r\n" + name + b": " + value + b"\r\n\r\n{}"


def send_everything(stack: Stack) -> None:
    for path, body in submissions():
        status = requests.post(stack.url + path, json=body, timeout=20).status_code
        assert status in (200, 202, 400, 404, 422), body
    with ThreadPoolExecutor(AT_ONCE) as clients:
        list(clients.map(lambda request: exchange(to_port(stack.port), request, PATIENCE), headers()))
    round_of(QUICK, to_port(stack.port))


def ended(stack: Stack) -> bool:
    states = stack.stats()["states"]
    return states["queued"] == states["running"] == 0


def size(log: Path) -> int:
    return log.stat().st_size


def lines_after(log: Path, start: int) -> list[bytes]:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().split(b"\n")[:-1]


def test_every_line_of_every_log_is_one_event_that_a_terminal_can_show(front: Stack) -> None:
    nginx, *servers = (front.folder / f"log/{name}.log" for name in ("nginx", "server_0", "server_1"))
    before = {log: size(log) for log in (nginx, *servers)}
    send_everything(front)
    wait_until(lambda: ended(front), "all jobs have ended", 120)
    requests.get(f"{front.url}/healthz", headers={"X-Request-ID": "the-last-one"}, timeout=10)
    wait_until(lambda: b"the-last-one" in nginx.read_bytes(), "nginx has written its log", 10)

    of_nginx = lines_after(nginx, before[nginx])
    events = [line for line in of_nginx if line.startswith(b"{")]
    errors = [line for line in of_nginx if not line.startswith(b"{")]
    of_servers = [line for log in servers for line in lines_after(log, before[log])]
    print(f"\n{len(events)} requests and {len(errors)} errors of nginx, {len(of_servers)} lines of the servers")

    assert len(events) > 500
    for line in events:
        event = json.loads(line)
        assert event.keys() >= ACCESS
        assert isinstance(event["status"], int)
        assert FORGED not in event
    assert len(errors) > 20, "nginx had something to say"
    assert [line for line in errors if not re.match(NGINX, line)] == []
    assert len(of_servers) > 500
    assert [line for line in of_servers if not re.match(FIRST, line)] == []

    for line in (*of_nginx, *of_servers):
        text = line.decode()
        assert text.isprintable(), ascii(text[:500])
        assert len(text.splitlines()) == 1
        assert len(line) < LINE_MAX
    reasons = [line for line in of_servers if b"raised:" in line]
    assert len(reasons) > len(TEXTS)
