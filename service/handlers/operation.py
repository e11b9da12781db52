"""How a request and its answers are described. `routes` is the table, `openapi` and `docs` what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from service.errors import StormdrainError
from service.handlers.answers import ID_PATTERN
from service.handlers.base import Handler

JSON, NDJSON, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"
TEXT, HTML = "text/plain", "text/html"
STREAMS = (NDJSON, EVENTS)  # their kind is that of one line, or of the data of one event


class Fault(NamedTuple):
    """A problem that an answer may be: its status, the end of its `type`, its title."""

    status: int
    slug: str
    title: str


def fault(error: type[StormdrainError]) -> Fault:
    return Fault(error.status, error.slug, error().title)


@dataclass(frozen=True, slots=True)
class Parameter:
    """`schema` is JSON Schema."""

    name: str
    where: str  # path, query or header
    sentence: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False
    example: Any = None


@dataclass(frozen=True, slots=True)
class Content:
    """A body of this media type. `kind` is what it is read as, or is made of; None: text."""

    media: str
    kind: Any = None
    examples: Mapping[str, Any] = field(default_factory=dict)  # by a word on what it shows


@dataclass(frozen=True, slots=True)
class Answer:
    """`headers` are names in HEADERS, those that are always there; `maybe` those that may be."""

    sentence: str
    contents: Sequence[Content] = ()
    headers: Sequence[str] = ()
    maybe: Sequence[str] = ()
    links: Mapping[str, str] = field(default_factory=dict)  # operation: where in the answer the job's id is


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method of one address does."""

    id: str
    summary: str
    sentence: str
    answers: Mapping[int, Answer]
    faults: Sequence[Fault] = ()
    parameters: Sequence[Parameter] = ()
    bodies: Sequence[Content] = ()
    body_required: bool = True
    tag: str = "operate"


@dataclass(frozen=True, slots=True)
class Route:
    """An address as OpenAPI writes it, who serves it, and what it does, by method."""

    path: str
    handler: type[Handler]
    operations: Mapping[str, Operation]

    @property
    def pattern(self) -> str:
        """As Tornado writes it."""
        return self.path.replace("{id}", f"({ID_PATTERN})")
