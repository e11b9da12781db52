"""A producer is killed with -9 at the worst moments of a put."""

from pathlib import Path

import pytest
import requests

from tests.faults.faulty import FaultyServer, faulty_server, file_of, stored
from tests.support import wait_until


def send_to_its_death(it: FaultyServer) -> None:
    """No answer at all: for the client it is unknown."""
    (victim,) = it.producers()
    it.arm()
    with pytest.raises(requests.ConnectionError):
        requests.post(f"{it.url}/jobs", json={"job": "noop", "args": {"job_id": "doomed"}}, timeout=10)
    assert not it.armed.exists()
    wait_until(lambda: it.producers() not in ([], [victim]), "another producer is there")
    it.wait_until_ready()


def test_a_producer_killed_after_the_commit_leaves_the_job_once_and_it_runs(tmp_path: Path) -> None:
    with faulty_server(tmp_path, "killed_after_commit", PRODUCERS="1") as it:
        it.wait_for(it.submit("noop", job_id="before"), "succeeded")
        send_to_its_death(it)
        wait_until(lambda: it.stats()["states"]["succeeded"] == 2, "the job runs")
        it.wait_for(it.submit("noop", job_id="after"), "succeeded")
        assert it.stop() == 0
    assert stored(file_of(tmp_path)) == [
        ('{"job_id":"before"}', "succeeded", 1),
        ('{"job_id":"doomed"}', "succeeded", 1),
        ('{"job_id":"after"}', "succeeded", 1),
    ]


def test_a_producer_killed_before_the_commit_leaves_no_job(tmp_path: Path) -> None:
    with faulty_server(tmp_path, "killed_before_commit", PRODUCERS="1") as it:
        it.wait_for(it.submit("noop", job_id="before"), "succeeded")
        send_to_its_death(it)
        it.wait_for(it.submit("noop", job_id="after"), "succeeded")
        assert it.stop() == 0
    assert stored(file_of(tmp_path)) == [
        ('{"job_id":"before"}', "succeeded", 1),
        ('{"job_id":"after"}', "succeeded", 1),
    ]
