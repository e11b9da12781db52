"""What one answer means: accepted, refused or unknown; in which state a job is."""

import re
from typing import NamedTuple

import requests

JOB_PATH = re.compile(r"/jobs/([\w.~%:-]+)$", re.ASCII)
UNKNOWN = (502, 504)  # nginx gave up on the server, which may have stored the job all the same
MISSING, REMOVED = "missing", "removed"  # 404 and 410, beside the states that the service names


class Answer(NamedTuple):
    """One request: an id when accepted, else a reason; `unknown`: it may have been accepted all the same."""

    seconds: float
    id: str = ""
    reason: str = ""
    unknown: bool = False


class Sighting(NamedTuple):
    """One look-up: the job's state, or the problem that kept us from seeing it."""

    id: str
    state: str = ""
    problem: str = ""


def judge(response: requests.Response, expected: tuple[int, str]) -> tuple[str, str, bool]:
    """(id, reason, unknown): accepted only as the contract says it, with the Location of the job."""
    status, text = expected
    if response.status_code != status:
        reason = f"HTTP {response.status_code} {member(response, 'title')}".strip()
        return "", reason, response.status_code in UNKNOWN
    if text and response.content.strip() != text.encode():
        return "", f"HTTP {status} with another text than '<job_id> add'", False
    found = JOB_PATH.search(response.headers.get("Location", ""))
    return (found[1], "", False) if found else ("", f"HTTP {status} without Location: /jobs/<id>", False)


def judge_stage(response: requests.Response, number: int) -> tuple[str, str, bool]:
    """The same for a teaching server, which knows no ids: its job goes by the number of the request."""
    if response.status_code != 200:
        return "", f"HTTP {response.status_code}", False
    right = response.content in (f"{number} done\n".encode(), f"{number} add\n".encode())
    return (str(number), "", False) if right else ("", "HTTP 200 with another text than '<job_id> done'", False)


def sight(id: str, response: requests.Response) -> Sighting:
    match response.status_code:
        case 200:
            state = member(response, "state")
            return Sighting(id, state, "" if state else "no state in the answer")
        case 404:
            return Sighting(id, MISSING)
        case 410:
            return Sighting(id, REMOVED)
        case status:
            return Sighting(id, problem=f"HTTP {status}")


def member(response: requests.Response, name: str) -> str:
    """A text member of a JSON object in the body, or "" when there is none that a terminal can show."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return ""
    text = body.get(name) if isinstance(body, dict) else None
    return text[:80] if isinstance(text, str) and text.isprintable() else ""
