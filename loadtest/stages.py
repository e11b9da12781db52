"""The race on one page: every stage of the ladder and the full product, one after the other, under the same clients."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import client, picture, settings
from .contestant import ACCEPTING, LOOK, PRODUCT, STAGES, Job, Stage, own_stack, stage
from .exits import Exit
from .pool import client_pool
from .progress import Progress
from .race import Load, Race, Rung, caption, load, summary, table
from .run import follow_all
from .settings import JOBS, MOST_CLIENTS, MOST_REQUESTS, STAGE, Option, Settings, output_folder, seconds, whole
from .submit import submit_all

HELP = "race the stages of the ladder and the full product: a table, a JSON file, a picture"

BURST = 10  # requests, all at once: the first question of the ladder
CRASH_AFTER = 0.5  # seconds: requests are on their way, and no job of a second has ended
QUIET = 5.0  # seconds without a job ending after which a restarted stage is believed to have forgotten the rest


def names(text: str) -> tuple[str, ...]:
    chosen = tuple(text.replace(",", " ").split())
    if not chosen or set(chosen) - {*STAGES, PRODUCT}:
        raise ValueError(f"must be some of {', '.join((*STAGES, PRODUCT))}")
    return tuple(name for name in (*STAGES, PRODUCT) if name in chosen)


def job_name(text: str) -> str:
    if text not in ("sleep", "primes"):
        raise ValueError("must be sleep (waits) or primes (computes)")
    return text


def address(text: str) -> str:
    return settings.base_url(text) if text else ""


OPTIONS: tuple[Option, ...] = (
    Option("stages", " ".join((*STAGES, PRODUCT)), names, "who takes part"),
    Option("job", "sleep", job_name, "what each request wants done: sleep waits, primes computes"),
    Option("seconds", "1", seconds, "how long one job takes alone"),
    Option("n", "3000", whole(MOST_REQUESTS), "requests of the flood"),
    Option("clients", "100", whole(MOST_CLIENTS), "how many of them at once"),
    Option("timeout", "3", seconds, "seconds a client waits for its answer"),
    Option("follow_timeout", "60", seconds, "seconds without any job ending after which waiting for the rest ends"),
    Option("url", "", address, "a full stack that runs already; without it, the race starts one of its own"),
    Option("out", "var/stages", output_folder, "folder for stages.json, stages.png and stages.html"),
)


def main(values: dict[str, Any]) -> Exit:
    out = Path(values["out"])
    began = time.monotonic()
    job = calibrate(values["job"], values["seconds"])
    plan = Settings(
        url=values["url"],
        n=values["n"],
        clients=values["clients"],
        job=job.name,
        args=job.args,
        timeout=values["timeout"],
        follow_timeout=values["follow_timeout"],
        form=STAGE,
        json="",
    )
    if PRODUCT in values["stages"]:
        find_product(plan)
    rungs = []
    for name in values["stages"]:
        print(f"== {name}", flush=True)
        rungs.append(race_one(name, job, plan))
        print(summary(rungs[-1]), flush=True)  # kept, should the rest be stopped by hand
    race = Race(
        datetime.now(UTC).date().isoformat(),
        len(os.sched_getaffinity(0)),
        platform.python_version(),
        f"{job.name} for {values['seconds']:g} s" + (f" (up to {job.amount:,.0f})" if job.name == "primes" else ""),
        plan.clients,
        plan.timeout,
        round(time.monotonic() - began, 1),
        rungs,
    )
    return publish(race, out)


def calibrate(name: str, seconds: float) -> Job:
    """A job that takes so long when it has a core to itself."""
    if name == "sleep":
        return Job(name, seconds)
    from service.jobs import primes  # only here: a load test needs nothing of the server

    limit, took = 10_000, 0.0
    while took < seconds / 2:  # a processor is slower in its first tenths of a second than later
        limit, before = 2 * limit, time.thread_time()
        primes(limit)
        took = time.thread_time() - before
    return Job(name, round(limit * (seconds / took) ** (1 / 1.5)))  # trial division up to n: about n to the 1.5


def find_product(plan: Settings) -> None:
    """It comes last: that there is none should be known now, not in ten minutes. Raises Unusable."""
    if plan.url:
        client.check_health(plan)
    else:
        with own_stack():
            pass


def race_one(name: str, job: Job, plan: Settings) -> Rung:
    burst = replace(plan, n=BURST, clients=BURST)
    crash = replace(plan, n=plan.clients)
    if name != PRODUCT:
        small, large = (stage_load(name, job, each) for each in (burst, plan))
        return Rung(name, small, large, stage_load(name, job, crash, kill=True))
    if plan.url:  # of somebody else: not ours to kill
        return Rung(name, product_load(plan.url, burst), product_load(plan.url, plan), None)
    with own_stack() as stack:
        small, large = (product_load(stack.url, each) for each in (burst, plan))
        return Rung(name, small, large, product_load(stack.url, crash, stack.crash))


def stage_load(name: str, job: Job, plan: Settings, kill: bool = False) -> Load:
    """A new server for each: what an earlier load has left behind would be in the way of this one."""
    with stage(name, job) as server, client_pool(plan := replace(plan, url=server.url)) as pool:
        with meanwhile(server.crash if kill else None):
            submission = submit_all(pool, plan)
        patience = QUIET + plan.follow_timeout * (not kill)
        accepted = len(submission.ids) if name in ACCEPTING else 0
        finished = wait_for_jobs(server, accepted, patience)
    return load(submission, finished, max(accepted - finished, 0))


def product_load(url: str, plan: Settings, crash: Callable[[], None] | None = None) -> Load:
    with client_pool(plan := replace(plan, url=url, form=JOBS)) as pool:
        with meanwhile(crash):
            submission = submit_all(pool, plan)
        follow = follow_all(pool, plan, submission.ids)
    return load(submission, follow.ends["succeeded"], len(follow.lost))


@contextmanager
def meanwhile(crash: Callable[[], None] | None) -> Iterator[None]:
    """While the block runs, the server is killed; the block ends when a new one is there."""
    if crash is None:
        yield
        return

    def later() -> None:
        time.sleep(CRASH_AFTER)
        crash()

    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(later)
        yield
        killed.result()


def wait_for_jobs(server: Stage, accepted: int, patience: float) -> int:
    """How many jobs ended, once all accepted ones have, or none has for `patience` seconds."""
    finished, last = server.finished(), time.monotonic()
    if finished >= accepted:
        return finished
    with Progress("jobs ended", accepted) as bar:
        bar.advance(finished)
        while finished < accepted and time.monotonic() - last < patience:
            time.sleep(LOOK)
            if new := server.finished() - finished:
                finished, last = finished + new, time.monotonic()
            bar.advance(new)
    return finished


def publish(race: Race, out: Path) -> Exit:
    race.save(out / "stages.json")
    picture.draw(race, out)
    print(f"\n{table(race)}\n\n{caption(race)}", flush=True)
    print(f"in {out}/: stages.json, stages.png, stages.html", flush=True)
    lost = sum(load.lost for rung in race.rungs if rung.name == PRODUCT for load in rung.loads)
    return Exit.LOST if lost else Exit.OK
