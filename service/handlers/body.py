"""What comes in: strict JSON of a known shape, and the headers that say what is asked. Raises Refused."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.errors import BadArguments, Malformed
from service.job import State

KEY_MAX = 255  # characters
WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?=$|[,;])", re.IGNORECASE | re.ASCII)
# A string (RFC 8941), or a bare token.
KEY_PATTERN = rf'"(?:[ !#-\[\]-~]|\\["\\]){{1,{KEY_MAX}}}"' + rf"|[A-Za-z0-9!#$%&'*+.^_`|~:/-]{{1,{KEY_MAX}}}"


T = TypeVar("T")

YEAR = 365 * 86400.0  # seconds

Later = Annotated[float, Meta(ge=0, le=YEAR, description="seconds")]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339, with its offset")]


SAYING_THE_SAME = (("delay", "run_at"), ("expires_in", "deadline"))


class Submission(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /jobs."""

    job: Annotated[str, Meta(description="the name of a registered function")]
    args: Annotated[dict[str, Any], Meta(description="its keyword arguments")] = {}
    delay: Annotated[Later | None, Meta(description="not started before so many seconds have passed")] = None
    run_at: Annotated[Moment | None, Meta(description="not started before then")] = None
    priority: Annotated[int, Meta(ge=-100, le=100, description="higher first; one step is worth a minute")] = 0
    timeout: Annotated[
        Annotated[float, Meta(gt=0, le=YEAR)] | None, Meta(description="seconds one attempt may take")
    ] = None
    attempts: Annotated[Annotated[int, Meta(ge=1, le=1000)] | None, Meta(description="how many attempts in all")] = None
    expires_in: Annotated[
        Annotated[float, Meta(gt=0, le=YEAR)] | None,
        Meta(description="seconds; not started within them: expired, never run"),
    ] = None
    deadline: Annotated[Moment | None, Meta(description="not started by then: expired, never run")] = None

    callback: Annotated[
        Annotated[str, Meta(max_length=2048, extra_json_schema={"format": "uri"})] | None,
        Meta(description="URL that is told of the job's end"),
    ] = None

    def __post_init__(self) -> None:
        for one, other in SAYING_THE_SAME:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one} and {other} say the same: give one of them")
        for moment in (self.run_at, self.deadline):
            if moment is not None and moment.timestamp() > time.time() + YEAR:
                raise ValueError(f"{moment.isoformat()} is more than a year ahead")
        # Of what is said alike only: by the clock, a repetition could be refused whose first was accepted.
        never = (self.delay is not None and self.expires_in is not None and self.delay >= self.expires_in) or (
            self.run_at is not None and self.deadline is not None and self.run_at >= self.deadline
        )
        if never:
            raise ValueError("it would expire before it may start")

    def waits(self, now: float) -> float:
        """Seconds before it can be claimed. `now` is since the epoch."""
        return self.delay or (max(self.run_at.timestamp() - now, 0.0) if self.run_at else 0.0)

    def expires(self, now: float) -> float | None:
        """Seconds after which it is not started any more."""
        return max(self.deadline.timestamp() - now, 0.0) if self.deadline else self.expires_in


class Filter(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /jobs/retry."""

    state: Annotated[
        Literal["failed", "cancelled", "expired"],
        Meta(description="of the jobs to queue again; left out, those that have failed"),
    ] = "failed"
    job: Annotated[str | None, Meta(description="only those of this function")] = None


class Listing(msgspec.Struct, forbid_unknown_fields=True):
    """The query of GET /jobs."""

    state: Annotated[State | UnsetType, Meta(description="only those in this state")] = UNSET
    job: Annotated[str | UnsetType, Meta(description="only those of this function")] = UNSET
    limit: Annotated[int, Meta(ge=1, le=1000, description="at most so many")] = 50
    cursor: Annotated[
        Annotated[int, Meta(ge=1, le=1 << 62)] | UnsetType, Meta(description="where to go on, as `next` has it")
    ] = UNSET


class Waiting(msgspec.Struct):
    """The query of GET /jobs/{id}."""

    wait: Annotated[
        Annotated[int, Meta(ge=1, le=3600)] | UnsetType,
        Meta(description="answered when the job has ended, or after so many seconds, at most 60"),
    ] = UNSET


class Original(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the original form."""

    job_id: int | str


def parse(body: bytes, kind: type[msgspec.Struct]) -> Any:
    """Strict JSON as `kind`. Raises Malformed (not JSON, or ambiguous) or BadArguments (JSON of another shape)."""
    try:
        unambiguous(body.decode())
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise BadArguments(str(error)) from None
    except RecursionError:
        raise Malformed("the JSON is nested too deeply") from None
    except (ValueError, msgspec.DecodeError) as error:
        raise Malformed(f"not JSON: {error}") from None


ANYTHING, SUBMISSIONS = msgspec.json.Decoder(), msgspec.json.Decoder(Submission)


def parse_lines(lines: Sequence[bytes]) -> list[Submission] | None:
    """The same for many Submissions at once, which takes half the time. None: they have to be parsed one by one.

    A line that begins and ends as an object goes over into no other such. A name that stands twice is read once, and
    leaves a colon too few; where nothing is escaped, nothing makes up for it."""
    text = b"\n".join(lines)
    if b"\\" in text or not all(line[:1] + line[-1:] == b"{}" for line in lines):
        return None
    try:
        read = ANYTHING.decode_lines(text)
        if len(read) != len(lines) or msgspec.json.encode(read).count(b":") != text.count(b":"):
            return None
        return SUBMISSIONS.decode_lines(text)
    except (ValueError, RecursionError, msgspec.DecodeError):
        return None


def parse_query(query: dict[str, str], kind: type[T]) -> T:
    """Raises BadArguments."""
    try:
        return msgspec.convert(query, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadArguments(f"the query: {error}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


unambiguous = json.JSONDecoder(object_pairs_hook=_no_duplicates).decode


def media_type(header: str) -> str:
    """Of a Content-Type, without its parameters."""
    return header.partition(";")[0].strip().lower()


def idempotency_key(header: str | None) -> str | None:
    """The key of a string (RFC 8941) or a bare token. Raises Malformed."""
    if header is None:
        return None
    text = header.strip()
    if not re.fullmatch(KEY_PATTERN, text):
        raise Malformed(f'Idempotency-Key is a string such as "order-17", or a bare token: 1 to {KEY_MAX} characters')
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def fingerprint(submission: Submission) -> bytes:
    """The same for the same request, however its members are ordered, and whatever a later release may ask beside."""
    plain = msgspec.structs.asdict(Submission(submission.job, submission.args))
    asked = {name: value for name, value in msgspec.structs.asdict(submission).items() if value != plain[name]}
    said = [submission.job, submission.args, *([asked] if asked else [])]
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).digest()


def preferred_wait(header: str | None) -> float | None:
    """Seconds of `Prefer: wait=10` (RFC 7240). What is not understood is ignored, as the RFC says."""
    found = WAIT.search(header or "")
    return float(found[1]) if found else None
