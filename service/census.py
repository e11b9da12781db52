"""What the store says at the moment of a scrape: the same whichever producer is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from service import __version__
from service.backlog.aio import Status
from service.job import State

Tally = Mapping[tuple[str, State], int]


def counters(tally: Tally, jobs: Iterable[str]) -> Iterator[Metric]:
    """Every one of `jobs` is there from the start, at zero: a rate needs a value before the first."""
    tally = {(job, state): 0 for job in jobs for state in State if state != State.RUNNING} | dict(tally)
    accepted = CounterMetricFamily("stormdrain_jobs_accepted", "Jobs that were newly put on disk.", labels=["job"])
    finished = CounterMetricFamily(
        "stormdrain_jobs_finished",
        "Times that a job came to a final state; one that is retried by hand can do so again.",
        labels=["job", "state"],
    )
    for (job, state), n in tally.items():
        if state == State.QUEUED:
            accepted.add_metric([job], n)
        else:
            finished.add_metric([job, state], n)
    yield from (accepted, finished)


def gauges(status: Status, drain_rate: float, now: float) -> Iterator[Metric]:
    """`drain_rate` is jobs per second; `now` is seconds since the epoch."""
    backlog = GaugeMetricFamily(
        "stormdrain_backlog_jobs",
        "Jobs in the store, by state; those that have ended, for as long as they are kept.",
        labels=["state"],
    )
    for state, count in status.counts.items():
        backlog.add_metric([state], count)
    yield backlog
    waited = max(0.0, now - status.oldest) if status.oldest else 0.0
    for name, told, value in (
        ("oldest_queued_seconds", "For how long a job could have been claimed, at most; 0 without one.", waited),
        ("slots_busy", "Jobs that slots have, of all producers; short ones share a slot.", len(status.running)),
        ("producers", "Producers that hold a lease.", len(status.workers)),
        ("drain_jobs_per_second", "Jobs that end a second, over the last ten seconds.", drain_rate),
        ("log_bytes", "The size of the write-ahead log.", status.log_bytes),
    ):
        yield GaugeMetricFamily(f"stormdrain_{name}", told, value)
    yield InfoMetricFamily("stormdrain_build", "The release of the producer that answers.", {"version": __version__})
