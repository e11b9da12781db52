"""N requests from CLIENTS processes, each answer counted."""

import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.pool import Pool

from . import client
from .answer import Answer
from .pool import arriving
from .progress import Progress
from .settings import Settings


@dataclass
class Submission:
    """What came of the requests; times in seconds, of all requests, also those that failed."""

    requests: int
    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    accepted_times: list[float] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    def note(self, answer: Answer) -> None:
        self.times.append(answer.seconds)
        if answer.id:
            self.ids.append(answer.id)
            self.accepted_times.append(answer.seconds)
        elif answer.unknown:
            self.unknown[answer.reason] += 1
        else:
            self.refused[answer.reason] += 1


def submit_all(pool: Pool, settings: Settings) -> Submission:
    submission, began = Submission(settings.n), time.perf_counter()
    with Progress("requests", settings.n) as bar:
        for answer in arriving(pool, client.submit, range(settings.n), settings):
            submission.note(answer)
            submission.seconds = time.perf_counter() - began
            bar.advance()
    if silent := settings.n - len(submission.times):
        submission.unknown["client process died"] = silent
    return submission
