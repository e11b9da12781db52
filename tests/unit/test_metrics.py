"""What is counted, what is told of it, and that no client can choose what a label says."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.backlog.aio import Status
from service.census import counters, gauges
from service.errors import BacklogFull, StormdrainError
from service.handlers.metrics import Families
from service.job import Running, State
from service.metrics import OTHER, Metrics, slugs

JOBS = ("noop", "sleep")


def told(metrics: Metrics, *producers: Metrics) -> dict[str, float]:
    """What `metrics` tells when these have published all that they have, by `name{label=value}`."""
    sums: Counter[str] = Counter()
    for producer in producers:
        sums.update({name: n for name, n in producer.samples().items() if n})
    return parsed(generate_latest(Families(metrics.families(sums))).decode())


def parsed(text: str) -> dict[str, float]:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {
        sample.name + "{" + ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items())) + "}": sample.value
        for sample in samples
    }
    assert len(found) == len(samples), "a sample stands there twice"
    return found


def test_everything_is_there_at_zero_before_anything_happens() -> None:
    metrics = Metrics(JOBS)
    values = told(metrics, metrics)
    values |= parsed(generate_latest(Families(counters({}, JOBS))).decode())
    assert values["stormdrain_jobs_accepted_total{job=noop}"] == 0
    assert values["stormdrain_jobs_finished_total{job=sleep,state=failed}"] == 0
    assert values["stormdrain_attempts_started_total{job=sleep}"] == 0
    assert values["stormdrain_accept_seconds_count{}"] == 0
    assert set(values.values()) == {0}


def test_what_happens_is_counted_under_its_job() -> None:
    metrics = Metrics(JOBS)
    metrics.accepted(0.0015)
    metrics.started("noop", 0.002)
    metrics.ended("noop", "raised", 7.25)
    metrics.started("noop", 20.0)
    metrics.ended("noop", "succeeded", 0.5)
    values = told(metrics, metrics)
    assert values["stormdrain_accept_seconds_bucket{le=0.001}"] == 0
    assert values["stormdrain_accept_seconds_bucket{le=0.0025}"] == 1
    assert values["stormdrain_attempts_started_total{job=noop}"] == 2
    assert values["stormdrain_attempts_ended_total{job=noop,outcome=raised}"] == 1
    assert values["stormdrain_wait_seconds_sum{job=noop}"] == 20.002
    assert values["stormdrain_wait_seconds_bucket{job=noop,le=60.0}"] == 2
    assert values["stormdrain_run_seconds_sum{job=noop}"] == 7.75
    assert values["stormdrain_run_seconds_bucket{job=noop,le=+Inf}"] == 2
    assert values["stormdrain_attempts_started_total{job=sleep}"] == 0


def test_a_clock_that_was_set_back_makes_no_negative_time() -> None:
    metrics = Metrics(JOBS)
    metrics.accepted(-3600.0)
    assert told(metrics, metrics)["stormdrain_accept_seconds_sum{}"] == 0


@given(st.lists(st.text()))
def test_what_clients_make_up_adds_no_label(names: list[str]) -> None:
    metrics = Metrics(JOBS)
    for name in (*names, OTHER):
        metrics.refused(name)
        metrics.started(name, 0.1)
        metrics.ended(name, "crashed", 0.1)
    labels = {value for family in metrics.families({}) for sample in family.samples for value in sample.labels.values()}
    bounds = {label for label in labels if label.replace(".", "").isdigit() or label == "+Inf"}
    assert labels - bounds <= {*JOBS, OTHER, "crashed", *slugs(StormdrainError)}


def test_a_refusal_is_counted_by_its_slug() -> None:
    metrics = Metrics(JOBS)
    for slug in (BacklogFull.slug, BacklogFull.slug, "<script>"):
        metrics.refused(slug)
    values = told(metrics, metrics)
    assert values["stormdrain_requests_refused_total{reason=backlog-full}"] == 2
    assert values["stormdrain_requests_refused_total{reason=other}"] == 1


def test_sums_are_those_of_all_producers_whichever_is_asked() -> None:
    producers = [Metrics(JOBS) for _ in range(3)]
    for n, producer in enumerate(producers):
        for _ in range(n + 1):
            producer.ended("noop", "succeeded", 0.1)
    answers = [told(producer, *producers) for producer in producers]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["stormdrain_attempts_ended_total{job=noop,outcome=succeeded}"] == 6
    assert answers[0]["stormdrain_run_seconds_sum{job=noop}"] == 0.6


def test_what_is_not_registered_here_is_told_all_the_same() -> None:
    """It was, in the release before, or is in another server: a sum that vanished would have fallen."""
    here, there = Metrics(JOBS), Metrics(["resize"])
    there.started("resize", 0.2)
    there.ended("resize", "raised", 0.2)
    tally = {("resize", State.QUEUED): 1, ("resize", State.FAILED): 1}
    values = told(here, here, there) | parsed(generate_latest(Families(counters(tally, JOBS))).decode())
    assert values["stormdrain_jobs_accepted_total{job=resize}"] == 1
    assert values["stormdrain_jobs_finished_total{job=resize,state=failed}"] == 1
    assert values["stormdrain_attempts_ended_total{job=resize,outcome=raised}"] == 1
    bounds = [name for name in values if name.startswith("stormdrain_wait_seconds_bucket{job=resize")]
    assert len(bounds) == 14


def test_what_another_release_counts_otherwise_is_left_out() -> None:
    metrics = Metrics(JOBS)
    sums = {'["stormdrain_unheard_of_total",{}]': 3, '["stormdrain_attempts_started_total",{"pool":"x"}]': 3}
    sums |= {'["stormdrain_accept_seconds_bucket",{"le":"0.33"}]': 3}
    assert set(parsed(generate_latest(Families(metrics.families(sums))).decode()).values()) == {0}


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30), st.randoms())
def test_a_sum_is_the_same_in_any_order(seconds: list[float], dice: object) -> None:
    """Producers are asked in turn: one that told the last bit less would look like a restart."""
    producers = [Metrics(JOBS) for _ in seconds]
    for producer, taken in zip(producers, seconds, strict=True):
        producer.ended("noop", "succeeded", taken)
    shuffled = sorted(producers, key=lambda _: dice.random())  # type: ignore[attr-defined]
    assert told(producers[0], *producers) == told(producers[0], *shuffled)


def test_gauges_say_how_the_backlog_stands() -> None:
    counts = {state: 0 for state in State} | {State.QUEUED: 5, State.RUNNING: 1}
    status = Status(counts, 100.0, ["w1", "w2"], [Running("w1", "id", "noop", 99.0)], 4096)
    values = parsed(generate_latest(Families(gauges(status, 12.5, 160.0))).decode())
    assert values["stormdrain_backlog_jobs{state=queued}"] == 5
    assert values["stormdrain_backlog_jobs{state=expired}"] == 0
    assert values["stormdrain_oldest_queued_seconds{}"] == 60
    assert values["stormdrain_slots_busy{}"] == 1
    assert values["stormdrain_producers{}"] == 2
    assert values["stormdrain_drain_jobs_per_second{}"] == 12.5
    assert values["stormdrain_log_bytes{}"] == 4096
    assert [name for name in values if name.startswith("stormdrain_build_info{version=")]
    assert (
        parsed(generate_latest(Families(gauges(status._replace(oldest=None), 0.0, 160.0))).decode())[
            "stormdrain_oldest_queued_seconds{}"
        ]
        == 0
    )


def test_names_and_help_are_as_prometheus_asks_for() -> None:
    counts = {state: 0 for state in State}
    status = Status(counts, None, [], [], 0)
    families = [*Metrics(JOBS).families({}), *gauges(status, 0.0, 0.0), *counters({}, JOBS)]
    text = generate_latest(Families(families)).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert len(names) == len(set(names)) == len(families)
    for family in families:
        assert family.name.startswith("stormdrain_")
        assert family.documentation.endswith(".")
        assert family.name.endswith("_seconds") == (family.type == "histogram" or "oldest" in family.name)
