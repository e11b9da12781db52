"""A backlog filled without a server: by the engine's own puts, in large batches."""

from pathlib import Path

from service.backlog import open_backlog
from service.job import Job, new_id

from ..progress import Progress

BATCH = 5_000  # jobs in one commit
ARGS = b'{"job_id":7}'


def a_job(name: str = "noop", args: bytes = ARGS) -> Job:
    return Job(new_id(), name, args, timeout=60.0, attempts=3)


def fill(file: Path, jobs: int) -> None:
    """So many queued no-op jobs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    backlog = open_backlog(f"sqlite:{file}")
    with Progress("jobs put into the backlog", jobs) as bar:
        for left in range(jobs, 0, -BATCH):
            batch = [a_job() for _ in range(min(BATCH, left))]
            with backlog.batch():
                backlog.put(batch)
            bar.advance(len(batch))
    backlog.close()
