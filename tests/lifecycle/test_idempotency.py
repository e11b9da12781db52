"""The same Idempotency-Key is the same job, over all producers, at once or later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.support import Server, server


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("server"), PRODUCERS="2") as running:
        yield running


def post(it: Server, key: str, body: Any = None, path: str = "/jobs") -> requests.Response:
    body = {"job": "noop", "args": {"job_id": 1}} if body is None else body
    return requests.post(it.url + path, json=body, headers={"Idempotency-Key": key}, timeout=10)


def jobs(it: Server) -> int:
    return sum(it.stats()["states"].values())


def test_a_repetition_is_answered_with_the_same_job(it: Server) -> None:
    before = jobs(it)
    first, again = post(it, '"order 17"'), post(it, '"order 17"')
    assert (first.status_code, again.status_code) == (202, 202)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert again.json()["id"] == first.json()["id"]
    assert jobs(it) == before + 1


def test_the_order_of_members_makes_no_other_request(it: Server) -> None:
    first = post(it, "order", {"job": "sleep", "args": {"seconds": 0.0, "job_id": 1}})
    again = post(it, "order", {"args": {"job_id": 1, "seconds": 0.0}, "job": "sleep"})
    assert again.json()["id"] == first.json()["id"]


def test_the_key_with_another_request_is_refused(it: Server) -> None:
    post(it, "mine")
    before = jobs(it)
    other = post(it, "mine", {"job": "noop", "args": {"job_id": 2}})
    assert (other.status_code, other.json()["type"]) == (422, "/problems/key-reused")
    assert jobs(it) == before


@pytest.mark.parametrize("bodies", [1, 5])
def test_fifty_at_once_are_one_job(it: Server, bodies: int) -> None:
    before = jobs(it)

    def one(number: int) -> requests.Response:
        return post(it, f"fifty-{bodies}", {"job": "noop", "args": {"job_id": number % bodies}})

    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(one, range(50)))
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert len({answer.json()["id"] for answer in accepted}) == 1
    assert Counter(answer.status_code for answer in answers) == {202: 50 // bodies} | ({422: 40} if bodies > 1 else {})
    assert sum("Idempotency-Replayed" not in answer.headers for answer in accepted) == 1
    assert jobs(it) == before + 1


def test_the_original_form_takes_a_key_too(it: Server) -> None:
    first, again = (post(it, "root", {"job_id": 7}, "/") for _ in range(2))
    assert (first.text, again.text) == ("7 add\n", "7 add\n")
    assert first.headers["Location"] == again.headers["Location"]


@pytest.mark.parametrize("key", ['""', '"', '"a', 'a"', "a,b", "a b", '"\\a"', '"' + "a" * 256 + '"', "a" * 256])
def test_what_is_no_key_is_refused_and_stores_nothing(it: Server, key: str) -> None:
    before = jobs(it)
    answer = post(it, key)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed")
    assert jobs(it) == before


def test_quoted_and_bare_are_the_same_key(it: Server) -> None:
    assert post(it, '"a-b_1"').json()["id"] == post(it, "a-b_1").json()["id"]
    assert post(it, r'"say \"hi\" \\"').status_code == 202
