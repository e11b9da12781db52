"""What a client asks of a job, and how it follows one, against two producers of a real server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
import requests

from tests.support import Server, descendants, kept, server, wait_until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("follow"), SLOTS="4", PRODUCERS="2") as it:
        yield it


def send(running: Server, body: dict[str, Any], status: int = 202, **headers: str) -> requests.Response:
    response = requests.post(f"{running.url}/jobs", json=body, headers=headers)
    assert response.status_code == status, response.text
    return response


def from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# when


@pytest.mark.parametrize("when", ["delay", "run_at"])
def test_a_job_for_later_has_no_position_and_starts_about_then(running: Server, when: str) -> None:
    began = time.time()
    receipt = send(running, {"job": "noop", when: 600.0 if when == "delay" else from_now(600)}).json()
    assert receipt["position"] is None
    assert began + 600 - 0.01 <= moment(receipt["estimated_start"]) <= time.time() + 600 + 0.01


@pytest.mark.parametrize("when", ["delay", "run_at"])
def test_a_job_starts_when_it_was_asked_to_and_not_before(running: Server, when: str) -> None:
    began = time.time()
    response = send(running, {"job": "noop", when: 1.0 if when == "delay" else from_now(1.0)})
    job = running.wait_for(response.headers["Location"], "succeeded")
    assert moment(job["started_at"]) - began + 0.01 >= 1.0
    assert moment(job["run_at"]) <= moment(job["started_at"])


def test_a_moment_that_has_passed_is_now(running: Server) -> None:
    response = send(running, {"job": "noop", "run_at": "2001-01-01T00:00:00Z"})
    assert response.json()["position"] is not None
    running.wait_for(response.headers["Location"], "succeeded")


@pytest.mark.parametrize("until", ["deadline", "expires_in"])
def test_what_is_not_started_by_its_deadline_expires(running: Server, until: str) -> None:
    passed = {"delay": 1, "deadline": "0001-01-01T00:00:00+14:00"}
    response = send(running, {"job": "noop"} | (passed if until == "deadline" else {"run_at": from_now(6), until: 0.2}))
    assert response.json()["estimated_start"] is None
    job = running.wait_for(response.headers["Location"], "expired")
    assert (job["attempt"], job["started_at"]) == (0, None)
    assert job["history"][0]["outcome"] == "expired"


def test_its_own_limits_hold_for_a_job(running: Server) -> None:
    asked = {"job": "sleep", "args": {"seconds": 30}, "timeout": 0.3, "attempts": 1}
    job = running.wait_for(send(running, asked).headers["Location"], "failed")
    assert (job["attempts"], job["timeout"], job["history"][0]["outcome"]) == (1, 0.3, "timed_out")


@pytest.mark.parametrize(
    "asked",
    [
        {"delay": -1},
        {"delay": 1, "run_at": "2030-01-01T00:00:00Z"},
        {"run_at": "2030-01-01T00:00:00"},
        {"run_at": "9999-12-31T23:59:59-14:00"},
        {"deadline": "9999-12-31T23:59:59-14:00"},
        {"deadline": "2030-01-01T00:00:00Z", "expires_in": 1},
        {"expires_in": "1"},
        {"expires_in": 0},
        {"expires_in": 2, "delay": 2},
        {"deadline": "2026-01-01T00:00:00Z", "run_at": "2026-01-01T00:00:00Z"},
        {"priority": 101},
        {"priority": 1.5},
        {"timeout": 0},
        {"attempts": 0},
        {"attempts": True},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused_and_stores_nothing(running: Server, asked: dict[str, Any]) -> None:
    before = sum(running.stats()["states"].values())
    assert send(running, {"job": "noop", **asked}, 422).headers["Content-Type"] == "application/problem+json"
    assert sum(running.stats()["states"].values()) == before


def test_another_delay_is_another_request_for_the_same_key(running: Server) -> None:
    send(running, {"job": "noop", "priority": 1}, **{"Idempotency-Key": "follow-1"})
    send(running, {"job": "noop", "priority": 2}, 422, **{"Idempotency-Key": "follow-1"})


# waiting


def test_who_prefers_to_wait_gets_the_job_when_it_has_ended(running: Server) -> None:
    response = send(running, {"job": "sleep", "args": {"seconds": 0.3, "job_id": 5}}, 200, Prefer="wait=10")
    assert (response.json()["state"], response.json()["result"]) == ("succeeded", 5)
    assert response.headers["Preference-Applied"] == "wait=10"
    assert 0.3 <= response.elapsed.total_seconds() < 9


def test_who_cannot_wait_so_long_gets_a_receipt(running: Server) -> None:
    response = send(running, {"job": "sleep", "args": {"seconds": 30}}, 202, Prefer="respond-async, wait=1")
    assert response.headers["Preference-Applied"] == "wait=1"
    assert 1 <= response.elapsed.total_seconds() < 8
    running.wait_for(response.headers["Location"], "running")
    requests.delete(running.url + response.headers["Location"])


@pytest.mark.parametrize(
    "prefer", ["respond-async", "wait=soon", "wait=-1", "x" * 4000, "", ",,;;=", "wait=999999999999"]
)
def test_a_preference_that_is_not_understood_is_ignored(running: Server, prefer: str) -> None:
    assert "Preference-Applied" not in send(running, {"job": "noop"}, 202, Prefer=prefer).headers


def test_a_long_poll_is_answered_at_the_end_whichever_producer_runs_the_job(running: Server) -> None:
    locations = [
        send(running, {"job": "sleep", "args": {"seconds": 5}}).headers["Location"] for _ in range(8)
    ]  # as many as all slots, and so long that neither producer runs them all while the other stands still
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda path: requests.get(f"{running.url}{path}?wait=30"), locations))
    assert [answer.json()["state"] for answer in answers] == ["succeeded"] * 8
    assert max(answer.elapsed.total_seconds() for answer in answers) < 25
    assert len({answer.json()["history"][0]["worker"] for answer in answers}) == 2


def test_a_long_poll_ends_when_its_time_is_up(running: Server) -> None:
    location = send(running, {"job": "noop", "delay": 60}).headers["Location"]
    answer = requests.get(f"{running.url}{location}?wait=1")
    assert answer.json()["state"] == "queued"
    assert 1 <= answer.elapsed.total_seconds() < 5


@pytest.mark.parametrize("wait", ["", "x", "-1", "0", "1e9", "٣", "99999999999999999999999"])
def test_a_wait_that_is_none_is_refused(running: Server, wait: str) -> None:
    location = send(running, {"job": "noop"}).headers["Location"]
    assert requests.get(f"{running.url}{location}", params={"wait": wait}).status_code == 422


def test_what_has_not_changed_is_not_sent_again(running: Server) -> None:
    location = send(running, {"job": "noop"}).headers["Location"]
    running.wait_for(location, "succeeded")
    tag = requests.get(running.url + location).headers["ETag"]
    again = requests.get(running.url + location, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert requests.get(running.url + location, headers={"If-None-Match": '"0"'}).status_code == 200


# lists


def test_a_list_goes_on_until_its_end_and_misses_nothing(running: Server) -> None:
    ids = [send(running, {"job": "noop", "args": {"job_id": n}}).json()["id"] for n in range(7)]
    found, path, pages = [], "/jobs?job=noop&limit=3", 0
    while path and not set(ids) <= set(found):
        answer = requests.get(running.url + path)
        body = answer.json()
        found += [job["id"] for job in body["jobs"]]
        path, pages = body["next"], pages + 1
        assert (answer.links.get("next", {}).get("url")) == path
    assert [id for id in found if id in ids] == ids[::-1]
    assert pages >= 3


def test_the_failed_are_found_with_what_they_failed_of(running: Server) -> None:
    location = send(running, {"job": "flaky", "args": {"failures": 9}, "attempts": 1}).headers["Location"]
    running.wait_for(location, "failed")
    (newest,) = requests.get(f"{running.url}/jobs?state=failed&job=flaky&limit=1").json()["jobs"]
    assert newest["id"] == location.rpartition("/")[2]
    assert newest["error"] == {"type": "RuntimeError", "message": "attempt 1 fails as asked"}


@pytest.mark.parametrize(
    "query", ["state=ended", "limit=0", "limit=1001", "limit=x", "cursor=x", "color=red", "cursor=-1"]
)
def test_a_list_that_cannot_be_is_refused(running: Server, query: str) -> None:
    assert requests.get(f"{running.url}/jobs?{query}").status_code == 422


# its end


def test_a_queued_job_is_cancelled_and_never_runs(running: Server) -> None:
    location = send(running, {"job": "noop", "delay": 60}).headers["Location"]
    answer = requests.delete(running.url + location)
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert requests.delete(running.url + location).status_code == 409


def test_a_running_job_is_killed_within_a_second_and_is_not_run_again(running: Server) -> None:
    assert kept(lambda: seconds_until_killed(running) < 1)


def seconds_until_killed(running: Server) -> float:
    location = send(running, {"job": "sleep", "args": {"seconds": 60}}).headers["Location"]
    job = running.wait_for(location, "running")
    began = time.monotonic()
    assert requests.delete(running.url + location).status_code == 202
    job = running.wait_for(location, "cancelled")
    took = time.monotonic() - began
    assert [(entry["outcome"], entry["state"]) for entry in job["history"]] == [("cancelled", "cancelled")]
    assert (job["result"], job["error"], job["attempt"]) == (None, None, 1)
    return took


def test_only_what_is_here_can_be_cancelled(running: Server) -> None:
    location = send(running, {"job": "noop"}).headers["Location"]
    running.wait_for(location, "succeeded")
    assert requests.delete(running.url + location).status_code == 409
    assert requests.delete(f"{running.url}/jobs/01890000-0000-7000-8000-000000000000").status_code == 404


def test_a_page_of_another_site_cancels_nothing(running: Server) -> None:
    location = send(running, {"job": "noop", "delay": 60}).headers["Location"]
    answer = requests.delete(running.url + location, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert running.job(location)["state"] == "queued"


# another chance


def test_a_failed_job_runs_again_when_it_is_asked_to(running: Server) -> None:
    location = send(running, {"job": "flaky", "args": {"failures": 1}, "attempts": 1}).headers["Location"]
    running.wait_for(location, "failed")
    answer = requests.post(f"{running.url}{location}/retry")
    assert (answer.status_code, answer.headers["Location"]) == (202, location)
    assert answer.json()["args"] == {"failures": 1}
    job = running.wait_for(location, "failed")
    assert [entry["outcome"] for entry in job["history"]] == ["raised", "requeued", "raised"]


def test_what_goes_well_is_not_run_again(running: Server) -> None:
    location = send(running, {"job": "noop"}).headers["Location"]
    running.wait_for(location, "succeeded")
    answer = requests.post(f"{running.url}{location}/retry")
    assert (answer.status_code, answer.json()["state"]) == (409, "succeeded")
    assert requests.post(f"{running.url}/jobs/01890000-0000-7000-8000-000000000000/retry").status_code == 404


def test_many_are_run_again_with_one_request(running: Server) -> None:
    locations = [send(running, {"job": "noop", "delay": 60, "priority": 3}).headers["Location"] for _ in range(5)]
    for location in locations:
        requests.delete(running.url + location)
    answer = requests.post(f"{running.url}/jobs/retry", json={"state": "cancelled", "job": "noop"})
    assert answer.json()["retried"] >= 5
    for location in locations:
        running.wait_for(location, "succeeded")
    assert requests.post(f"{running.url}/jobs/retry", json={"state": "cancelled", "job": "noop"}).json() == {
        "retried": 0
    }
    assert requests.post(f"{running.url}/jobs/retry", json={"state": "running"}).status_code == 422


# the stream of events


def events(response: requests.Response) -> Iterator[tuple[int, dict[str, Any]]]:
    """(id, data) of each event, as they come, to the end of the stream."""
    id = -1
    for line in response.iter_lines(chunk_size=1, decode_unicode=True):
        if line.startswith("id: "):
            id = int(line[4:])
        if line.startswith("data: "):
            yield id, json.loads(line[6:])


def test_every_change_of_state_comes_as_it_happens_and_then_the_stream_ends(running: Server) -> None:
    location = send(running, {"job": "flaky", "args": {"failures": 1}}).headers["Location"]
    with requests.get(f"{running.url}{location}/events", stream=True, timeout=20) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        seen = list(events(response))
    assert [(id, data["state"]) for id, data in seen] == [
        (0, "queued"),
        (1, "running"),
        (2, "queued"),
        (3, "running"),
        (4, "succeeded"),
    ]
    assert seen[2][1]["outcome"] == "raised"


def test_who_comes_back_gets_what_it_has_missed_and_nothing_twice(running: Server) -> None:
    location = send(running, {"job": "flaky", "args": {"failures": 2}}).headers["Location"]
    whole: list[tuple[int, dict[str, Any]]] = []
    while not whole or whole[-1][1]["state"] != "succeeded":  # cut off after each event
        last = {"Last-Event-ID": str(whole[-1][0])} if whole else {}
        with requests.get(f"{running.url}{location}/events", stream=True, headers=last, timeout=20) as response:
            whole.append(next(events(response)))
    assert [id for id, _ in whole] == list(range(7))
    ended = requests.get(f"{running.url}{location}/events", headers={"Last-Event-ID": "6"})
    assert (ended.status_code, ended.content) == (204, b"")


def test_a_stream_lives_on_through_the_death_of_the_producer_that_runs_the_job(running: Server) -> None:
    location = send(running, {"job": "sleep", "args": {"seconds": 60}}).headers["Location"]
    running.wait_for(location, "running")
    pid = running.producer_of(location)
    seen: list[tuple[int, dict[str, Any]]] = []

    def follow() -> None:
        while not seen or seen[-1][1]["state"] != "cancelled":
            last = {"Last-Event-ID": str(seen[-1][0])} if seen else {}
            try:
                with requests.get(f"{running.url}{location}/events", stream=True, headers=last, timeout=20) as response:
                    seen.extend(events(response))
            except requests.RequestException:
                continue  # it was this stream's producer

    following = threading.Thread(target=follow)
    following.start()
    wait_until(lambda: len(seen) >= 2, "the first events")
    psutil.Process(pid).kill()
    wait_until(lambda: len(seen) >= 4, "it runs again")
    requests.delete(running.url + location)
    following.join(20)
    assert [data["state"] for _, data in seen] == ["queued", "running", "queued", "running", "cancelled"]
    assert seen[2][1]["outcome"] == "lost"


def test_who_waits_is_let_go_when_the_producer_stops(running: Server) -> None:
    """The last of this file: it stops the server."""
    location = send(running, {"job": "noop", "delay": 60}).headers["Location"]
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(requests.get, f"{running.url}{location}?wait=60", timeout=30) for _ in range(3)]
        streaming = pool.submit(requests.get, f"{running.url}{location}/events", timeout=30)
        wait_until(lambda: connections(running) > 5, "they wait")  # two of them are where it listens
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 10
        assert [answer.result().json()["state"] for answer in waiting] == ["queued"] * 3
        assert streaming.result().status_code == 200


def connections(running: Server) -> int:
    """Of all processes of the server."""
    found = 0
    for process in descendants(running.process.pid):
        with suppress(psutil.NoSuchProcess):
            found += len(process.net_connections())
    return found
