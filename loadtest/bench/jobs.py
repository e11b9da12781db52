"""What the benchmark runs: its own functions, so that the user's JOBS are neither needed nor run."""

import time
from typing import Any

from service.registry import job

HOUR = 3600.0  # seconds


@job
def noop(job_id: Any = None) -> Any:
    """Nothing, as fast as it goes."""
    return job_id


@job(timeout=HOUR)
def sleep(seconds: float) -> None:
    """Occupy a slot, and nothing else."""
    time.sleep(seconds)


@job(timeout=HOUR)
def burn(seconds: float) -> None:
    """Occupy a slot, and a core."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@job
def clock() -> float:
    """When it began: seconds since the epoch."""
    return time.time()
