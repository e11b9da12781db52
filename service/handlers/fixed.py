"""What does not change while a producer lives. Whoever has it is only told that it is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from service.handlers.base import Handler


class Fixture(NamedTuple):
    body: bytes
    headers: Mapping[str, str]
    tag: str


def fixture(body: bytes, headers: Mapping[str, str]) -> Fixture:
    """Its ETag is the same in every producer."""
    return Fixture(body, headers, f'"{hashlib.sha256(body).hexdigest()[:16]}"')


class Fixed(Handler):
    name: ClassVar[str]

    def get(self) -> None:
        self.fixture: Fixture = self.application.settings["fixtures"][self.name]
        self.set_header("Cache-Control", "no-cache")  # kept, and asked for again each time
        for name, value in self.fixture.headers.items():
            self.set_header(name, value)
        self.finish(self.fixture.body)

    def compute_etag(self) -> str | None:
        return self.fixture.tag
