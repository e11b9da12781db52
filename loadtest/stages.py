"""The race on one page: every stage of the ladder and the full product, one after the other, under the same clients."""

import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import client, picture, report, settings
from .contestant import LOOK, PRODUCT, QUEUE, STAGES, Stage, own_stack, stage
from .exits import Exit
from .pool import client_pool
from .progress import Progress
from .race import Load, Race, Rung, caption, table
from .run import follow_all
from .settings import JOBS, MOST_CLIENTS, MOST_REQUESTS, STAGE, Option, Settings, output_folder, seconds, whole
from .submit import Submission, submit_all

HELP = "race the stages of the ladder and the full product: a table, a JSON file, a picture"

ALL = (*STAGES, PRODUCT)
BURST = 10  # requests, all at once: the first question of the ladder
CRASH_AFTER = 0.5  # seconds at most, and half a job: the requests are on their way, and no job has ended
QUIET = 5.0  # seconds beyond a job's own in which none ends: then a restarted stage has forgotten the rest


def contestants(text: str) -> tuple[str, ...]:
    chosen = tuple(text.replace(",", " ").split())
    if not chosen or set(chosen) - set(ALL):
        raise ValueError(f"must be some of {', '.join(ALL)}")
    return tuple(name for name in ALL if name in chosen)


def one_of_two(text: str) -> str:
    if text not in ("sleep", "primes"):
        raise ValueError("must be sleep (waits) or primes (computes)")
    return text


def address(text: str) -> str:
    return settings.base_url(text) if text else ""


OPTIONS: tuple[Option, ...] = (
    Option("stages", " ".join(ALL), contestants, "who takes part"),
    Option("job", "sleep", one_of_two, "what each request wants done: sleep waits, primes computes"),
    Option("seconds", "1", seconds, "how long one job takes alone"),
    Option("n", "3000", whole(MOST_REQUESTS), "requests of the flood"),
    Option("clients", "100", whole(MOST_CLIENTS), "how many of them at once"),
    Option("timeout", "3", seconds, "seconds a client waits for its answer"),
    Option("follow_timeout", "60", seconds, "seconds without any job ending after which waiting for the rest ends"),
    Option("url", "", address, "a full stack that runs already; without it, the race starts one of its own"),
    Option("out", "var/stages", output_folder, "folder for stages.json, stages.png and stages.html"),
)


def main(values: dict[str, Any]) -> Exit:
    from service.linux import cores  # only here: a load test needs nothing of the server

    began = time.monotonic()
    picture.check()
    told = Settings(
        url=values["url"],
        n=values["n"],
        clients=values["clients"],
        job=values["job"],
        args=calibrated(values["job"], values["seconds"]),
        timeout=values["timeout"],
        follow_timeout=values["follow_timeout"],
        form=STAGE,
        json="",
    )
    if PRODUCT in values["stages"]:
        find_product(told)
    rungs = []
    for name in values["stages"]:
        print(f"== {name}", flush=True)
        rungs.append(race_one(name, told, values["seconds"]))
        print(rungs[-1], flush=True)  # kept, should the rest be stopped by hand
    race = Race(
        datetime.now(UTC).date().isoformat(),
        cores(),
        platform.python_version(),
        f"{told.job} for {values['seconds']:g} s",
        told.clients,
        told.timeout,
        round(time.monotonic() - began, 1),
        rungs,
    )
    return publish(race, Path(values["out"]))


def calibrated(job: str, seconds: float) -> dict[str, Any]:
    """Arguments with which the job takes so long when it has a core to itself."""
    if job == "sleep":
        return {"seconds": seconds}
    from service.jobs import primes

    limit, took = 10_000, 0.0
    while took < seconds / 2:  # a processor is slower in its first tenths of a second than later
        limit, before = 2 * limit, time.thread_time()
        primes(limit)
        took = time.thread_time() - before
    return {"limit": round(limit * (seconds / took) ** (1 / 1.5))}  # trial division up to n: about n to the 1.5


def find_product(told: Settings) -> None:
    """It comes last: that there is none should be known now, not in ten minutes. Raises Unusable."""
    if told.url:
        client.check_health(told)
    else:
        print("seeing that the full stack starts", flush=True)
        with own_stack():
            pass


def race_one(name: str, told: Settings, seconds: float) -> Rung:
    burst = replace(told, n=BURST, clients=BURST)
    after = min(CRASH_AFTER, seconds / 2)
    crash = replace(told, n=told.clients)
    if name != PRODUCT:
        patience = replace(crash, follow_timeout=seconds + QUIET)
        return Rung(name, stage_load(name, burst), stage_load(name, told), stage_load(name, patience, after))
    if told.url:  # of somebody else: not ours to kill
        return Rung(name, product_load(told.url, burst), product_load(told.url, told), None)
    with own_stack() as stack:
        small, large = (product_load(stack.url, each) for each in (burst, told))
        return Rung(name, small, large, product_load(stack.url, crash, after, stack.crash))


def stage_load(name: str, told: Settings, after: float = 0.0) -> Load:
    """A new server for each: what an earlier load has left behind would be in the way of this one."""
    with stage(name, told.job, told.args) as server, client_pool(told := replace(told, url=server.url)) as pool:
        with meanwhile(after, server.crash if after else None):
            submission = submit_all(pool, told)
        missing = wait_for_jobs(server, set(submission.ids), told.follow_timeout) if name == QUEUE else set()
        finished = len(server.finished())
    say_reasons(submission)
    return Load.of(submission, finished, len(missing))


def product_load(url: str, told: Settings, after: float = 0.0, crash: Callable[[], None] | None = None) -> Load:
    with client_pool(told := replace(told, url=url, form=JOBS)) as pool:
        with meanwhile(after, crash):
            submission = submit_all(pool, told)
        follow = follow_all(pool, told, submission.ids)
    say_reasons(submission)
    return Load.of(submission, follow.ends["succeeded"], len(submission.ids) - follow.ends["succeeded"])


def say_reasons(submission: Submission) -> None:
    for line in report.reasons("  no answer", submission.refused + submission.unknown):
        print(line, flush=True)


@contextmanager
def meanwhile(after: float, crash: Callable[[], None] | None) -> Iterator[None]:
    """`after` seconds into the block the server is killed; the block ends when a new one is there."""
    if crash is None:
        yield
        return

    def later() -> None:
        time.sleep(after)
        crash()

    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(later)
        yield
        killed.result()


def wait_for_jobs(server: Stage, accepted: set[str], patience: float) -> set[str]:
    """The accepted jobs that have not ended when none did for `patience` seconds."""
    missing, last = accepted - server.finished(), time.monotonic()
    with Progress("jobs ended", len(accepted)) as bar:
        bar.advance(len(accepted) - len(missing))
        while missing and time.monotonic() - last < patience:
            time.sleep(LOOK)
            still = missing - server.finished()
            if still != missing:
                last = time.monotonic()
            bar.advance(len(missing) - len(still))
            missing = still
    return missing


def publish(race: Race, out: Path) -> Exit:
    race.save(out / "stages.json")
    print(f"\n{table(race)}\n\n{caption(race)}", flush=True)
    picture.draw(race, out)
    print(f"in {out}/: stages.json, stages.png, stages.html", flush=True)
    lost = sum(load.lost for rung in race.rungs if rung.name == PRODUCT for load in rung.loads)
    return Exit.LOST if lost else Exit.OK
