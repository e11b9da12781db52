"""The whole run on one page: health check, submit, follow, report."""

from collections.abc import Iterator
from multiprocessing.pool import Pool
from typing import Any

from . import client, report
from .answer import Sighting
from .exits import Exit
from .follow import Follow
from .pool import arriving, client_pool
from .progress import Progress
from .settings import RUN, Option, Settings
from .submit import submit_all

HELP = "send N requests, follow every accepted job to its end, name what is lost"
OPTIONS: tuple[Option, ...] = RUN


def main(values: dict[str, Any]) -> Exit:
    settings = Settings(**values)
    client.check_health(settings)  # 1. before any process is made
    print(report.before(settings), flush=True)
    with client_pool(settings) as pool:  # 2. all clients ready, so that CLIENTS at once is true
        submission = submit_all(pool, settings)  # 3. only then the clock starts
        print(report.submitted(submission), flush=True)  # kept, should the rest be stopped by hand
        follow = follow_all(pool, settings, submission.ids)  # 4. the same processes look the jobs up
    print(report.followed(submission, follow), flush=True)
    if settings.json:
        report.save(settings.json, report.figures(settings, submission, follow))
    return report.verdict(submission, follow)


def follow_all(pool: Pool, settings: Settings, ids: list[str]) -> Follow:
    def look_up(some: list[str]) -> Iterator[Sighting]:
        return arriving(pool, client.look_up, some, settings)

    follow = Follow(look_up, ids, settings.follow_timeout)
    if ids:
        with Progress("jobs ended", len(ids)) as bar:
            follow.to_the_end(bar)
    return follow
