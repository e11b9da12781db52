"""What only a producer can count. The sums over all producers that ever were are in the store, see `publisher`; what
the store counts by itself is in `census`.

Every value of a label is from a set that no client can add to. Names are as Prometheus asks for:
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from service.errors import StormdrainError

OTHER = "other"  # what is not known here, as the value of a label
MICRO = 1_000_000  # sums of seconds are kept in whole microseconds

# Seconds. Other bounds need another name: what is in the store was counted with these.
ACCEPT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
WAIT = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300, 900, 3600, 14400, 86400)
RUN = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)


@dataclass(frozen=True, slots=True)
class OfJob:
    """What is counted of one job, found by its name at once: to look for a label costs more than to count."""

    label: str
    started: Counter
    wait: Histogram
    run: Histogram


class Metrics:
    def __init__(self, jobs: Iterable[str]) -> None:
        """`jobs` are the names that are registered here."""
        self._registry = CollectorRegistry()
        self._labelled: dict[str, tuple[Counter | Histogram, list[str]]] = {}  # by the name of a sample
        started = self._counter("attempts_started", "Attempts that began in a slot.", "job")
        wait = self._histogram("wait_seconds", "From the time an attempt was due until it began.", WAIT, "job")
        run = self._histogram("run_seconds", "From the beginning of an attempt to its end.", RUN, "job")
        self._refused = self._counter(
            "requests_refused",
            "Requests that a producer answered with a problem, by its slug. What nginx refuses is not among them.",
            "reason",
        )
        self._ended = self._counter(
            "attempts_ended",
            "Attempts that ended in a slot, by outcome. Those of a producer that died are not among them.",
            "job",
            "outcome",
        )
        self._accept = self._histogram("accept_seconds", "From a request until its new job was on disk.", ACCEPT)
        # All of them at once, at zero: a rate needs a value before the first.
        self._reasons = {reason: self._refused.labels(reason) for reason in (*slugs(StormdrainError), OTHER)}
        self._jobs = {job: OfJob(job, started.labels(job), wait.labels(job), run.labels(job)) for job in (*jobs, OTHER)}
        self._at_zero = self.samples().keys()

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        counter = Counter(f"stormdrain_{name}", told, labels, registry=self._registry)
        self._labelled[f"stormdrain_{name}_total"] = counter, list(labels)
        return counter

    def _histogram(self, name: str, told: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        histogram = Histogram(f"stormdrain_{name}", told, labels, buckets=bounds, registry=self._registry)
        self._labelled[f"stormdrain_{name}_count"] = histogram, list(labels)
        return histogram

    def _job(self, name: str) -> OfJob:
        return self._jobs.get(name) or self._jobs[OTHER]

    def accepted(self, seconds: float) -> None:
        """A new job is on disk, `seconds` after its request came."""
        self._accept.observe(max(0.0, seconds))

    def refused(self, slug: str) -> None:
        (self._reasons.get(slug) or self._reasons[OTHER]).inc()

    def started(self, name: str, waited: float) -> None:
        """An attempt, `waited` seconds after it was due."""
        job = self._job(name)
        job.started.inc()
        job.wait.observe(waited)

    def ended(self, name: str, outcome: str, seconds: float) -> None:
        """An attempt that ran for `seconds`. `outcome` is one of the words of retry.describe."""
        job = self._job(name)
        self._ended.labels(job.label, outcome).inc()
        job.run.observe(seconds)

    def samples(self) -> dict[str, int]:
        """What was counted here, by sample. Whole numbers, whose sum is the same in any order: one that falls by its
        last bit would be a restart to Prometheus, and all of it an increase."""
        samples = [sample for family in self._registry.collect() for sample in shown(family)]
        return {key(sample): round(sample.value * scale(sample)) for sample in samples}

    def families(self, sums: Mapping[str, int]) -> Iterator[Metric]:
        """These sums, as Prometheus's client wants to write them."""
        for unknown in sums.keys() - self.samples().keys():
            self._meet(unknown)
        for family in self._registry.collect():
            # Not what only this producer has counted yet: the next one that is asked would not know of it.
            known = {series(it) for it in shown(family) if key(it) in sums or key(it) in self._at_zero}
            family.samples = [
                sample._replace(value=sums.get(key(sample), 0) / scale(sample))
                for sample in shown(family)
                if series(sample) in known
            ]
            yield family

    def _meet(self, unknown: str) -> None:
        """What is not registered here was counted by others, or before: without it a sum would fall. What another
        release counts under other names is not shown."""
        name, labels = msgspec.json.decode(unknown)
        instrument, names = self._labelled.get(name, (None, []))
        if instrument and names == list(labels):
            instrument.labels(**labels)


def slugs(error: type[StormdrainError]) -> Iterator[str]:
    yield error.slug
    for kind in error.__subclasses__():
        yield from slugs(kind)


def shown(family: Metric) -> Iterator[Sample]:
    """Without the time at which each was made, which has no sum."""
    return (sample for sample in family.samples if not sample.name.endswith("_created"))


def series(sample: Sample) -> frozenset[tuple[str, str]]:
    """Of its family. All buckets of a histogram are one, with the empty ones: without those no quantile is right."""
    return frozenset(label for label in sample.labels.items() if label[0] != "le")


def key(sample: Sample) -> str:
    return msgspec.json.encode([sample.name, sample.labels]).decode()


def scale(sample: Sample) -> int:
    return MICRO if sample.name.endswith("_sum") else 1
