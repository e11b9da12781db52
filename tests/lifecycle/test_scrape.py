"""GET /metrics of real producers: sums of all of them, that no crash, stop or question lets fall."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from service.publisher import PUBLISH
from tests.faults.faulty import WRITE_LOCK, file_of, script
from tests.support import Server, server, wait_until

Sums = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(it: Server, counters_only: bool = False) -> Sums:
    # A connection of its own each time: which producer answers is chance.
    response = requests.get(f"{it.url}/metrics", timeout=10)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(response.text))
    assert {family.name.partition("_")[0] for family in families} == {"stormdrain"}
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        if not counters_only or family.type in ("counter", "histogram")
        for sample in family.samples
    }


def value(sums: Sums, name: str, **labels: str) -> float:
    return sums.get((f"stormdrain_{name}", frozenset(labels.items())), 0.0)


def fallen(before: Sums, after: Sums) -> dict[object, object]:
    return {key: (n, after.get(key)) for key, n in before.items() if after.get(key, -1.0) < n}


def counted_everywhere(it: Server, name: str, wanted: float, **labels: str) -> None:
    """Each producer adds what it has when it is asked, the others every few seconds."""
    wait_until(lambda: value(scrape(it), name, **labels) == wanted, f"{name} is {wanted}", PUBLISH + 10)


def test_everything_that_happens_is_counted_over_two_producers(tmp_path: Path) -> None:
    with server(tmp_path, SLOTS="4") as it:
        for location in [it.submit("noop") for _ in range(40)]:
            it.wait_for(location, "succeeded")
        it.wait_for(it.submit("flaky", failures=1), "succeeded")
        for body in ("{", '{"job": "noop", "args": {"nope": 1}}', '{"job": "format_disk"}'):
            requests.post(f"{it.url}/jobs", data=body, timeout=5)
        counted_everywhere(it, "jobs_finished_total", 40, job="noop", state="succeeded")
        counted_everywhere(it, "jobs_accepted_total", 40, job="noop")
        counted_everywhere(it, "attempts_ended_total", 1, job="flaky", outcome="raised")
        counted_everywhere(it, "attempts_ended_total", 1, job="flaky", outcome="succeeded")
        for reason in ("malformed", "bad-arguments", "unknown-job"):
            counted_everywhere(it, "requests_refused_total", 1, reason=reason)
        counted_everywhere(it, "attempts_started_total", 2, job="flaky")
        counted_everywhere(it, "accept_seconds_count", 41)
        counted_everywhere(it, "wait_seconds_count", 40, job="noop")
        counted_everywhere(it, "run_seconds_bucket", 40, job="noop", le="+Inf")
        wait_until(lambda: value(scrape(it), "producers") == 2, "both serve")
        sums = scrape(it)
        assert value(sums, "backlog_jobs", state="succeeded") == 41
        assert value(sums, "slots_busy") == 0


def test_the_same_request_again_is_no_second_accepted_job(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1") as it:
        for _ in range(3):
            body, key = {"job": "noop"}, {"Idempotency-Key": "order-17"}
            assert requests.post(f"{it.url}/jobs", json=body, headers=key, timeout=5).status_code == 202
        assert value(scrape(it), "jobs_accepted_total", job="noop") == 1


def test_clients_cannot_add_a_label(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1") as it:
        before = scrape(it).keys()
        for n in range(200):
            name = f'made-up-{n}\n"}}{{'
            requests.post(f"{it.url}/jobs", json={"job": name}, timeout=5)
            requests.get(f"{it.url}/{n}/{name}", timeout=5)
        after = scrape(it)
        assert after.keys() == before
        assert value(after, "requests_refused_total", reason="unknown-job") == 200
        assert value(after, "requests_refused_total", reason="not-found") == 200


def test_no_sum_falls_whichever_producer_is_asked_and_whoever_is_killed(tmp_path: Path) -> None:
    done = threading.Event()

    def flood(it: Server) -> None:
        while not done.is_set():
            try:
                requests.post(f"{it.url}/jobs", json={"job": "noop"}, timeout=5)
            except requests.RequestException:
                continue  # it had reached the one that was killed

    with server(tmp_path, SLOTS="2") as it:
        thread = threading.Thread(target=flood, args=(it,))
        thread.start()
        try:
            seen = scrape(it, counters_only=True)
            for turn in range(60):
                if turn in (20, 40):
                    os.kill(it.producers()[0], signal.SIGKILL)
                try:
                    now = scrape(it, counters_only=True)
                except requests.ConnectionError:
                    continue
                assert fallen(seen, now) == {}
                seen = now
        finally:
            done.set()
            thread.join()
        assert value(seen, "jobs_accepted_total", job="noop") > 50


def test_what_a_killed_producer_had_published_is_kept(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1") as it:
        for location in [it.submit("noop") for _ in range(10)]:
            it.wait_for(location, "succeeded")
        published = scrape(it, counters_only=True)
        victim = it.producers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: it.producers() not in ([], [victim]), "another takes its place")
        it.wait_until_ready()
        assert fallen(published, scrape(it, counters_only=True)) == {}
        it.wait_for(it.submit("noop"), "succeeded")
        assert value(scrape(it), "jobs_accepted_total", job="noop") == 11


def test_a_stop_publishes_what_was_counted_last_and_a_new_server_goes_on_from_there(tmp_path: Path) -> None:
    with server(tmp_path) as it:
        for location in [it.submit("noop") for _ in range(20)]:
            it.wait_for(location, "succeeded")
        assert it.stop() == 0
        it.start()
        it.wait_until_ready()
        sums = scrape(it)
        assert value(sums, "jobs_accepted_total", job="noop") == 20
        assert value(sums, "jobs_finished_total", job="noop", state="succeeded") == 20


def test_what_was_cancelled_is_counted_as_finished(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", SLOTS="1") as it:
        running, queued = it.submit("sleep", seconds=60), it.submit("sleep", seconds=60)
        wait_until(lambda: value(scrape(it), "attempts_started_total", job="sleep") == 1, "its slot has started")
        for location in (queued, running):
            requests.delete(it.url + location, timeout=5)
            it.wait_for(location, "cancelled")
        sums = scrape(it)
        assert value(sums, "jobs_finished_total", job="sleep", state="cancelled") == 2
        assert value(sums, "attempts_ended_total", job="sleep", outcome="cancelled") == 1


def test_while_somebody_holds_the_store_the_sums_are_told_as_they_were(tmp_path: Path) -> None:
    with server(tmp_path, PRODUCERS="1", COMMIT_TIMEOUT="1") as it:
        it.wait_for(it.submit("noop"), "succeeded")
        before = scrape(it, counters_only=True)
        with script(WRITE_LOCK, str(file_of(tmp_path))):
            requests.post(f"{it.url}/jobs", data="{", timeout=5)
            assert scrape(it, counters_only=True) == before
        counted_everywhere(it, "requests_refused_total", 1, reason="malformed")


def test_the_memory_backlog_counts_too(tmp_path: Path) -> None:
    with server(tmp_path, BACKLOG="memory:", PRODUCERS="1") as it:
        it.wait_for(it.submit("noop"), "succeeded")
        sums = scrape(it)
        assert value(sums, "jobs_finished_total", job="noop", state="succeeded") == 1
        assert value(sums, "backlog_jobs", state="succeeded") == 1


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/healthz"])
def test_who_only_asks_makes_nobody_write(tmp_path: Path, path: str) -> None:
    with server(tmp_path, PRODUCERS="1") as it:
        it.wait_for(it.submit("noop"), "succeeded")
        before = scrape(it, counters_only=True)
        for _ in range(5):
            assert requests.get(it.url + path, timeout=5).status_code == 200
        assert scrape(it, counters_only=True) == before
