"""Functions by name: what can be registered, what fits their signature."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from service import registry
from service.errors import BadArguments, ConfigError, UnknownJob
from service.registry import job


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    known = dict(registry._functions)
    registry._functions.clear()
    yield
    registry._functions.clear()
    registry._functions.update(known)


def test_a_registered_function_is_returned_unchanged_and_found_by_its_name() -> None:
    def add(one: int, two: int = 2) -> int:
        return one + two

    assert job(add) is add
    function = registry.find("add")
    assert (function.call, function.timeout, function.attempts, function.backoff, function.kind) == (
        add,
        60.0,
        3,
        1.0,
        "process",
    )
    assert registry.call("add", {"one": 1}, attempt=1) == 3


def test_options_are_kept() -> None:
    @job(name="mail.send-now", timeout=5, attempts=1, backoff=0, kind="thread")
    def send() -> None: ...

    function = registry.find("mail.send-now")
    assert (function.timeout, function.attempts, function.backoff, function.kind) == (5.0, 1, 0.0, "thread")
    assert registry.names() == ["mail.send-now"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    @job
    def known() -> None: ...

    with pytest.raises(UnknownJob) as refused:
        registry.find("no")
    assert (refused.value.status, refused.value.members) == (404, {"known": ["known"]})


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a b", "a/b", "a" * 65, "__import__", "os\n"])
def test_a_name_that_is_no_plain_word_is_refused(name: str) -> None:
    def function() -> None: ...

    function.__name__ = name or "<lambda>"
    with pytest.raises(ConfigError, match="job name"):
        job(function)


def test_two_functions_cannot_have_one_name() -> None:
    job(name="same")(lambda: 1)
    with pytest.raises(ConfigError, match="'same' is registered twice"):
        job(name="same")(lambda: 2)


async def a_coroutine_function() -> None: ...


def a_generator_function() -> Iterator[int]:
    yield 1


async def an_asynchronous_generator_function() -> AsyncIterator[int]:
    yield 1


def takes_by_position(value: int, /) -> None: ...


def takes_any_number(*values: int) -> None: ...


def has_an_annotation_that_cannot_be_checked(value: "Callable[[], object]") -> None: ...


def has_an_annotation_that_is_not_there(value: "Missing") -> None: ...  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    "function",
    [
        a_coroutine_function,
        a_generator_function,
        an_asynchronous_generator_function,
        takes_by_position,
        takes_any_number,
        has_an_annotation_that_cannot_be_checked,
        has_an_annotation_that_is_not_there,
    ],
)
def test_a_function_that_cannot_be_run_with_json_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=function.__name__):
        job(function)
    assert registry.names() == []


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"attempts": 0},
        {"backoff": -1},
        {"kind": "fiber"},
        {"backoff": float("nan")},
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="timeout > 0"):
        job(name="x", **options)(lambda: None)


def checked(
    count: int,
    text: str = "",
    number: float = 1.0,
    flag: bool = False,
    size: Literal["s", "m"] = "s",
    many: list[int] = [],  # noqa: B006
    maybe: int | None = None,
    anything: Any = None,
) -> None: ...


@pytest.mark.parametrize(
    "args",
    [
        {"count": 1},
        {"count": 1, "number": 2, "text": "t", "flag": True, "size": "m", "many": [1], "maybe": None},
        {"count": 1, "anything": {"deep": [1, None]}},
    ],
)
def test_arguments_that_fit_the_signature_pass(args: dict[str, Any]) -> None:
    job(checked)
    registry.find("checked").check(args)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"count": "1"},
        {"count": True},
        {"count": 1.5},
        {"count": None},
        {"count": 1, "unknown": 1},
        {"count": 1, "flag": 1},
        {"count": 1, "size": "xl"},
        {"count": 1, "many": ["1"]},
        {"count": 1, "text": None},
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_job_name(args: dict[str, Any]) -> None:
    job(checked)
    with pytest.raises(BadArguments, match=r"checked: .") as refused:
        registry.find("checked").check(args)
    assert (refused.value.status, refused.value.members) == (422, {"job": "checked"})


def test_a_function_with_open_keywords_takes_any_name() -> None:
    @job
    def open_ended(count: int, **others: Any) -> None: ...

    registry.find("open_ended").check({"count": 1, "whatever": [1]})
    with pytest.raises(BadArguments):
        registry.find("open_ended").check({"count": "1"})


def test_a_mutable_default_is_the_functions_own() -> None:
    job(checked)
    registry.find("checked").check({"count": 1})
    assert checked.__defaults__ is not None
    assert checked.__defaults__[4] == []


def test_the_attempt_is_known_inside_a_job_only() -> None:
    job(name="which")(registry.attempt)
    assert registry.call("which", {}, attempt=2) == 2
    with pytest.raises(LookupError):
        registry.attempt()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module, to be imported by the name it returns."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "temporary_jobs.py").write_text(text)
        return "temporary_jobs"

    yield write
    sys.modules.pop("temporary_jobs", None)


def test_a_jobs_module_is_imported(module: Callable[[str], str]) -> None:
    registry.load(module("from service.registry import job\n@job\ndef mine(): return 1\n"))
    assert registry.names() == ["mine"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "import no_such_module_anywhere",
        "from service.registry import gone",
        "def (",
        "1 / 0",
    ],
)
def test_a_jobs_module_that_cannot_be_used_is_refused_with_a_sentence(module: Callable[[str], str], text: str) -> None:
    with pytest.raises(ConfigError, match="JOBS is 'temporary_jobs'"):
        registry.load(module(text))


def test_a_jobs_module_that_is_not_there_is_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigError, match="JOBS is 'no_such_module'"):
        registry.load("no_such_module")
