"""The functions that this deployment runs. Yours: a module of your own, named by JOBS."""

import math
import time
from typing import Any

from service.registry import attempt, job


@job(timeout=300)
def sleep(seconds: float = 1.0, job_id: Any = None) -> Any:
    """Wait. The job of the original form: returns its job_id."""
    time.sleep(seconds)
    return job_id


@job
def noop(job_id: Any = None) -> Any:
    """Nothing, as fast as it goes."""
    return job_id


@job(timeout=300)
def primes(limit: int) -> int:
    """Compute: how many primes are there up to `limit`?"""
    return sum(1 for n in range(2, limit + 1) if all(n % d for d in range(2, math.isqrt(n) + 1)))


@job(attempts=10, backoff=0.2)
def flaky(failures: int) -> int:
    """Fail that many attempts first; returns the number of the attempt that succeeded."""
    if attempt() <= failures:
        raise RuntimeError(f"attempt {attempt()} fails as asked")
    return attempt()
