"""What comes in: strict JSON of a known shape, and the headers that say what is asked. Raises Refused."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import msgspec

from service.errors import BadArguments, Malformed

KEY_MAX = 255  # characters
QUOTED = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])*"')
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~:/-]+")


class Submission(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /jobs."""

    job: str
    args: dict[str, Any] = {}


class Original(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the original form."""

    job_id: int | str


def parse(body: bytes, kind: type[msgspec.Struct]) -> Any:
    """Strict JSON as `kind`. Raises Malformed (not JSON, or ambiguous) or BadArguments (JSON of another shape)."""
    try:
        json.loads(body, object_pairs_hook=_no_duplicates)
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise BadArguments(str(error)) from None
    except RecursionError:
        raise Malformed("the JSON is nested too deeply") from None
    except (ValueError, msgspec.DecodeError) as error:
        raise Malformed(f"the body is not JSON: {error}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


def idempotency_key(header: str | None) -> str | None:
    """The key of a string (RFC 8941) or a bare token. Raises Malformed."""
    if header is None:
        return None
    text = header.strip()
    if QUOTED.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    elif not TOKEN.fullmatch(text):
        raise Malformed('Idempotency-Key is a string such as "order-17", or a bare token')
    if not 1 <= len(text) <= KEY_MAX:
        raise Malformed(f"Idempotency-Key has 1 to {KEY_MAX} characters")
    return text


def fingerprint(name: str, args: dict[str, Any]) -> bytes:
    """The same for the same request, however its members are ordered."""
    return hashlib.sha256(msgspec.json.encode([name, args], order="sorted")).digest()
