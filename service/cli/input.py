"""What a person or a program has given: jobs and ids, checked before anything is sent."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import fields
from typing import Any

from service.client import Submission
from service.client.client import identify, quoted

MEMBERS = {f.name for f in fields(Submission)}
OPTIONS = sorted(MEMBERS - {"job", "args"})


class Wrong(Exception):
    """What was given cannot be sent. The message says why."""


def from_options(given: Namespace) -> Submission:
    args = json_object(given.args, "--args") if given.args else arguments(given.words)
    return checked({"job": given.job, "args": args} | {name: getattr(given, name) for name in OPTIONS})


def from_line(line: bytes) -> Submission:
    members = json_object(line, "a line")
    if unknown := sorted(members.keys() - MEMBERS):
        raise Wrong(f"a job has no {unknown[0]!r}; it has {', '.join(sorted(MEMBERS))}")
    return checked(members)


def checked(members: dict[str, Any]) -> Submission:
    if not isinstance(members.get("job"), str):
        raise Wrong('a job needs its name: {"job": "primes", "args": {"limit": 10}}')
    submission = Submission(**members)
    try:
        submission.body()
        if submission.idempotency_key is not None:
            quoted(submission.idempotency_key)
    except (AttributeError, TypeError, ValueError) as error:
        raise Wrong(f"this cannot be sent: {error}") from None
    return submission


def arguments(words: list[str]) -> dict[str, Any]:
    """Of name=value; a value that is JSON is taken as JSON, any other as text."""
    args: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name in args:
            raise Wrong(f"{name} is given twice")
        args[name] = value(text)
    return args


def value(text: str) -> Any:
    try:
        return strict(text)
    except ValueError:
        return text


def json_object(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        found = strict(text)
    except ValueError as error:
        raise Wrong(f"{what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Wrong(f'{what} is a JSON object, for instance {{"limit": 10}}')
    return found


def strict(text: str | bytes) -> Any:
    """Raises ValueError."""
    try:
        return json.loads(text, parse_constant=no_json)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def no_json(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def job_ids(given: list[str]) -> list[str]:
    """Those given, or for - those of the standard input: a line begins with one, or is a JSON object that has it."""
    ids = [id for each in given for id in (read_ids() if each == "-" else [each])]
    for id in ids:
        try:
            identify(id)
        except ValueError as error:
            raise Wrong(str(error)) from None
    return list(dict.fromkeys(ids))


def read_ids() -> list[str]:
    return [id_of(line) for line in sys.stdin if line.strip()]


def id_of(line: str) -> str:
    if not line.lstrip().startswith("{"):
        return line.split()[0]
    id = json_object(line, "a line").get("id")
    if not isinstance(id, str):
        raise Wrong("a line without an id: was it refused?")
    return id
