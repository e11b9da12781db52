"""What a run can be told: each option with its flag, environment variable, default and sentence."""

import json
import math
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.client import transport

from .exits import Unusable

JOBS, ORIGINAL = "jobs", "original"  # the two forms of a submit, see the HTTP contract
STAGE = "stage"  # the request of the original form, to a teaching server
MOST_REQUESTS = 10_000_000  # every answer time and id is kept: about 1 GB here
MOST_CLIENTS = 1_000  # each is a process of about 30 MB


@dataclass(frozen=True)
class Settings:
    """One run; the times are seconds."""

    url: str
    n: int
    clients: int
    job: str
    args: dict[str, Any]
    timeout: float
    follow_timeout: float
    form: str
    json: str


@dataclass(frozen=True)
class Option:
    """One setting. `parse` raises ValueError with the words that follow the name: "must be …"."""

    name: str
    default: str
    parse: Callable[[str], Any]
    help: str

    @property
    def variable(self) -> str:
        return self.name.upper()

    def add_to(self, parser: ArgumentParser) -> None:
        told = f"{self.help} (environment: {self.variable}; default: {self.default or 'none'})"
        flag = "--" + self.name.replace("_", "-")
        parser.add_argument(flag, dest=self.name, metavar="VALUE", help=told.replace("%", "%%"))

    def value(self, given: str | None, environment: Mapping[str, str]) -> Any:
        """The flag, else the variable, else the default. Compose and make pass an unset one as empty."""
        text = given if given is not None else environment.get(self.variable) or self.default
        try:
            return self.parse(text)
        except ValueError as error:
            raise Unusable(f"{self.variable} {error}, not {text!r}.") from None


def read(options: tuple[Option, ...], given: Namespace) -> dict[str, Any]:
    """Each option's value by name; Unusable names the first that is wrong."""
    return {option.name: option.value(getattr(given, option.name), os.environ) for option in options}


def whole(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:20]) <= most):
            raise ValueError(f"must be a whole number from 1 to {most}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e6:  # False for NaN too
        raise ValueError("must be a number of seconds above 0")
    return value


def json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return value


def base_url(text: str) -> str:
    try:
        return transport.base_url(text)
    except ValueError:
        raise ValueError("must be an address such as http://127.0.0.1:8080") from None


def form(text: str) -> str:
    if text not in (JOBS, ORIGINAL):
        raise ValueError(f"must be {JOBS} or {ORIGINAL}")
    return text


def job_name(text: str) -> str:
    if not text.strip():
        raise ValueError("must be the name of a job")
    return text


def output_file(text: str) -> str:
    """Asked before the run: a report that cannot be written would be noticed only after it."""
    path = Path(text)
    place = path if path.exists() else path.parent
    if text and (path.is_dir() or not os.access(place, os.W_OK)):
        raise ValueError("must be a file that can be written")
    return text


def output_folder(text: str) -> str:
    """Made when it is missing; asked before the run, as output_file."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"must be a folder that can be made ({error.strerror})") from None
    if not os.access(text, os.W_OK):
        raise ValueError("must be a folder that can be written to")
    return text


RUN = (
    Option("url", "http://127.0.0.1:8080", base_url, "where nginx listens"),
    Option("n", "1000", whole(MOST_REQUESTS), "how many requests in all"),
    Option("clients", "10", whole(MOST_CLIENTS), "how many at once: one process with one connection each"),
    Option("job", "sleep", job_name, "the registered job to submit; FORM=original always runs sleep"),
    Option("args", "{}", json_object, "its arguments, a JSON object, sent as they are; not for FORM=original"),
    Option("timeout", "3", seconds, "seconds to connect, and again to wait for an answer"),
    Option("follow_timeout", "60", seconds, "seconds without any job ending after which following gives up"),
    Option("form", JOBS, form, f"{JOBS}: POST /jobs; {ORIGINAL}: GET / with a job_id, as the first script did"),
    Option("json", "", output_file, "file for the figures as JSON"),
)
