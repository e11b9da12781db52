"""What came of it: percentiles, the tally, the text for people and the JSON for programs."""

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .answer import REMOVED
from .exits import Exit, Unusable
from .follow import ENDS, Follow
from .settings import JOBS, Settings
from .submit import Submission

NAMED = 20  # lost ids printed; all of them are in the JSON file


def percentile(ordered: list[float], share: float) -> float:
    """Nearest rank: a value that was measured, never one in between. 0 when nothing was."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else 0.0


def answer_times(submission: Submission) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(submission.times)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(1000 * percentile(ordered, share), 2) for name, share in shares.items()}


def success_line(submission: Submission) -> str:
    """Rounded down, so that 100.0% means all of them."""
    tenths = 1000 * len(submission.ids) // submission.requests
    return f"{tenths / 10:.1f}% request success!"


def rate(submission: Submission) -> float:
    """Requests per second."""
    return len(submission.times) / submission.seconds if submission.seconds else 0.0


def before(settings: Settings) -> str:
    what = f"POST /jobs, job {settings.job}" if settings.form == JOBS else "GET / with a job_id"
    return f"{settings.n} requests to {settings.url} ({what}), {min(settings.clients, settings.n)} at once"


def submitted(submission: Submission) -> str:
    times = ", ".join(f"{name} {value:.1f}" for name, value in answer_times(submission).items())
    lines = [success_line(submission)]
    lines += [f"{len(submission.times)} requests in {submission.seconds:.2f} s: {rate(submission):.1f} requests/s"]
    lines += [f"answer time in ms: {times}"]
    lines += reasons("not accepted", submission.refused)
    lines += reasons("unknown, may have been accepted and is not followed", submission.unknown)
    return "\n".join(lines)


def reasons(title: str, counted: Counter[str]) -> list[str]:
    return [f"{title}: {count} x {reason}" for reason, count in counted.most_common()]


def counts(follow: Follow) -> dict[str, int]:
    """How the accepted ended; all together: `accepted`. `removed` (410): ended, dropped by retention."""
    ends = {state: follow.ends[state] for state in ENDS}
    if follow.ends[REMOVED]:
        ends[REMOVED] = follow.ends[REMOVED]
    if follow.unfinished:
        ends["unfinished"] = follow.unfinished.total()
    return ends | {"lost": len(follow.lost)}


def followed(submission: Submission, follow: Follow) -> str:
    tally = " + ".join(f"{name} {count}" for name, count in counts(follow).items())
    lines = [f"accepted {len(submission.ids)} = {tally}"]
    lines += [f"LOST {id} ({why})" for id, why in follow.lost[:NAMED]]
    lines += [f"not ended when no more did: {n} x {state}" for state, n in follow.unfinished.items()]
    if len(follow.lost) > NAMED:
        lines += [f"… and {len(follow.lost) - NAMED} more LOST"]
    return "\n".join(lines)


def verdict(submission: Submission, follow: Follow) -> Exit:
    """A lost job outweighs any failed request."""
    if follow.lost:
        return Exit.LOST
    if follow.unfinished:
        return Exit.UNFINISHED
    return Exit.OK if len(submission.ids) == submission.requests else Exit.REFUSED


def figures(settings: Settings, submission: Submission, follow: Follow) -> dict[str, Any]:
    return {
        "settings": asdict(settings),
        "requests": submission.requests,
        "seconds": round(submission.seconds, 3),
        "requests_per_second": round(rate(submission), 1),
        "answer_ms": answer_times(submission),
        "refused": dict(submission.refused),
        "unknown": dict(submission.unknown),
        "accepted": len(submission.ids),
        "ends": counts(follow),
        "lost": [lost._asdict() for lost in follow.lost],
        "exit": int(verdict(submission, follow)),
    }


def save(path: str, content: dict[str, Any]) -> None:
    try:
        Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise Unusable(f"The figures could not be written to {path}: {error.strerror}.") from None
