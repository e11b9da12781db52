"""One Idempotency-Key, fifty times at once, through nginx and so over all producers of both servers."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.native import Stack
from tests.support import wait_until

pytestmark = pytest.mark.stack

CLIENTS = 50


def jobs(stack: Stack) -> int:
    return sum(stack.stats()["states"].values())


@pytest.mark.parametrize("bodies", [1, 5])
def test_fifty_at_once_are_one_job(front: Stack, bodies: int) -> None:
    for turn in range(4):
        key, before = f"fifty-{bodies}-{turn}", jobs(front)
        together = threading.Barrier(CLIENTS)

        def one(number: int, key: str = key, together: threading.Barrier = together) -> requests.Response:
            body = {"job": "noop", "args": {"job_id": number % bodies}}
            together.wait()
            named = {"Idempotency-Key": key, "X-Request-ID": f"{key}-{number}"}
            return requests.post(f"{front.url}/jobs", json=body, headers=named, timeout=20)

        with ThreadPoolExecutor(CLIENTS) as clients:
            answers = list(clients.map(one, range(CLIENTS)))
        wanted = {202: CLIENTS // bodies} | ({422: CLIENTS - CLIENTS // bodies} if bodies > 1 else {})
        assert Counter(answer.status_code for answer in answers) == wanted
        accepted = [answer for answer in answers if answer.status_code == 202]
        assert len({answer.json()["id"] for answer in accepted}) == 1
        assert sum("Idempotency-Replayed" not in answer.headers for answer in accepted) == 1
        refused = [answer.json()["type"] for answer in answers if answer.status_code == 422]
        assert set(refused) <= {"/problems/key-reused"}
        assert jobs(front) == before + 1
        assert len(servers_asked(front, key)) == 2


def servers_asked(stack: Stack, key: str) -> set[str]:
    """Which of the servers answered those requests, by nginx's log."""

    def logged() -> list[str]:
        lines = (stack.folder / "log/nginx.log").read_text(errors="replace").splitlines()
        return [json.loads(line)["upstream"] for line in lines if f'"request_id":"{key}-' in line]

    return set(wait_until(lambda: found if len(found := logged()) == CLIENTS else None, "all are logged", 5))
