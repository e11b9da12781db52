"""The built-in jobs, and some that say what they are told to say. The stack of these tests imports this as JOBS."""

from typing import NoReturn

import service.jobs  # noqa: F401
from service.registry import job


@job(attempts=1)
def raises(message: str) -> NoReturn:
    raise ValueError(message)


@job(attempts=1)
def raises_named(name: str) -> NoReturn:
    """An exception whose very name is the client's."""
    raise type(name, (Exception,), {})


@job
def prints(text: str) -> str:
    print(text)
    return text


@job
def open_ended(**anything: object) -> list[str]:
    """Names of arguments that the client chooses."""
    return sorted(anything)
