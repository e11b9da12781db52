"""@job(...) registers a function under its name. Only what is registered can run."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import msgspec

from service.errors import BadArguments, ConfigError, JobsError, UnknownJob

NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
KINDS = ("process", "thread")
NO_PLAIN_FUNCTION = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Function:
    """A registered function. `timeout` and `backoff` are seconds; `backoff` doubles with every attempt."""

    name: str
    call: Callable[..., Any]
    arguments: type[msgspec.Struct]
    timeout: float
    attempts: int
    backoff: float
    kind: str

    def check(self, args: dict[str, Any]) -> None:
        """Raises BadArguments when `args` do not fit the signature and its annotations."""
        try:
            msgspec.convert(args, self.arguments)
        except msgspec.ValidationError as error:
            raise BadArguments(f"{self.name}: {error}", job=self.name) from None


_functions: dict[str, Function] = {}
_attempt: ContextVar[int] = ContextVar("attempt")


def attempt() -> int:
    """Inside a job: the number of this attempt, from 1. Raises LookupError elsewhere."""
    return _attempt.get()


def call(name: str, args: dict[str, Any], attempt: int) -> Any:
    """Run a function as attempt number `attempt`, its arguments as its annotations say (a datetime from a string,
    for instance). Raises whatever it raises."""
    function = find(name)
    typed = msgspec.convert(args, function.arguments)
    token = _attempt.set(attempt)
    try:
        return function.call(**{name: getattr(typed, name, value) for name, value in args.items()})
    finally:
        _attempt.reset(token)


@overload
def job(function: F) -> F: ...
@overload
def job(
    *,
    name: str | None = ...,
    timeout: float = ...,
    attempts: int = ...,
    backoff: float = ...,
    kind: str = ...,
) -> Callable[[F], F]: ...
def job(
    function: Any = None,
    *,
    name: str | None = None,
    timeout: float = 60.0,
    attempts: int = 3,
    backoff: float = 1.0,
    kind: str = "process",
) -> Any:
    """Register a function; it is returned unchanged.

    timeout   seconds one attempt may take; its process is killed after that
    attempts  how many attempts in all; then the job is failed
    backoff   seconds before the second attempt; doubled each time, with jitter
    kind      "process" (default): its own process, killed at the limit, can use a whole core.
              "thread": for calls that only wait (network, disk). A thread cannot be killed: at the limit
              the attempt is failed and the thread left to itself, so a hung call costs memory until it ends;
              a crash takes the producer with it, and computing slows the intake.

    Raises ConfigError, with a sentence, for what cannot be registered."""

    def register(function: F) -> F:
        return _register(function, name or function.__name__, timeout, attempts, backoff, kind)

    return register if function is None else register(function)


def _register(function: F, name: str, timeout: float, attempts: int, backoff: float, kind: str) -> F:
    if not NAME.fullmatch(name):
        raise ConfigError(f"job name {name!r}: use {NAME.pattern}")
    if name in _functions and _functions[name].call is not function:
        raise ConfigError(f"job {name!r} is registered twice")
    if any(is_it(function) for is_it in NO_PLAIN_FUNCTION):
        raise ConfigError(f"job {name!r} is a coroutine or generator function: jobs are plain functions")
    if not all(isinstance(number, (int, float)) for number in (timeout, attempts, backoff)):
        raise ConfigError(f"job {name!r}: timeout, attempts and backoff are numbers")
    if not 0 < timeout < float("inf") or attempts < 1 or not 0 <= backoff < float("inf") or kind not in KINDS:
        raise ConfigError(f"job {name!r}: timeout > 0, attempts >= 1, backoff >= 0, kind one of {KINDS}")
    arguments = _arguments(name, function)
    _functions[name] = Function(name, function, arguments, float(timeout), attempts, float(backoff), kind)
    return function


def _arguments(name: str, function: Callable[..., Any]) -> type[msgspec.Struct]:
    """The signature as a type that validates: unknown names are refused, annotations are checked."""
    members: list[Any] = []
    open_ended = False
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception as error:  # whatever a string annotation evaluates to
        raise ConfigError(f"job {name!r}: an annotation cannot be resolved: {error!r}") from None
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ConfigError(f"job {name!r}: {parameter} cannot be passed by name")
        else:
            kind = Any if parameter.annotation is parameter.empty else parameter.annotation
            default = () if parameter.default is parameter.empty else (parameter.default,)
            members.append((parameter.name, kind, *(_default(value) for value in default)))
    try:
        struct = msgspec.defstruct(name, members, kw_only=True, forbid_unknown_fields=not open_ended)
        msgspec.json.schema(struct)
    except TypeError as error:
        raise ConfigError(f"job {name!r}: its annotations cannot be checked: {error}") from None
    return struct


def _default(value: Any) -> Any:
    # A mutable default is only looked at here, never handed to the function.
    return msgspec.field(default_factory=lambda: value)


def load(module: str) -> None:
    """Import the module that registers this deployment's functions. Raises ConfigError, JobsError."""
    try:
        importlib.import_module(module)
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigError(f"JOBS is {module!r}, which cannot be imported: {error}") from error
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise JobsError(f"JOBS is {module!r}, which cannot be imported: {told}") from error
    if not _functions:
        raise ConfigError(f"JOBS is {module!r}, which registers no function: put @job above one")


def find(name: str) -> Function:
    """Raises UnknownJob with the known names."""
    try:
        return _functions[name]
    except KeyError:
        raise UnknownJob(f"no job is registered under {name[:64]!r}", known=names()) from None


def names() -> list[str]:
    return sorted(_functions)


def functions() -> list[Function]:
    return [_functions[name] for name in names()]
