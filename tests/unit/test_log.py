"""When lines are written, and in which order."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator

import pytest

from service.log import Formatter, Handler


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(out: io.StringIO) -> Iterator[logging.Logger]:
    log, handler = logging.getLogger("of-this-test"), Handler(out)
    handler.setFormatter(Formatter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    yield log
    log.removeHandler(handler)


def lines(out: io.StringIO) -> list[str]:
    return [line.rpartition(" ")[2] for line in out.getvalue().splitlines()]


def test_without_an_event_loop_a_line_is_written_at_once(log: logging.Logger, out: io.StringIO) -> None:
    log.info("one")
    assert lines(out) == ["one"]


def test_a_turn_of_the_event_loop_writes_its_lines_together(log: logging.Logger, out: io.StringIO) -> None:
    async def turn() -> None:
        log.info("one")
        log.info("two")
        assert lines(out) == []
        await asyncio.sleep(0)
        assert lines(out) == ["one", "two"]

    for _ in range(2):  # the second in another loop
        out.truncate(0)
        out.seek(0)
        asyncio.run(turn())


def test_a_warning_and_what_a_thread_says_are_written_at_once_behind_what_waits(
    log: logging.Logger, out: io.StringIO
) -> None:
    async def turn() -> None:
        log.info("one")
        log.warning("two")
        assert lines(out) == ["one", "two"]
        log.info("three")
        said = asyncio.get_running_loop().run_in_executor(None, log.info, "four")
        while not said.done() and "four" not in out.getvalue():
            pass  # this turn does not end
        assert lines(out) == ["one", "two", "three", "four"]
        await said

    asyncio.run(turn())


def test_a_line_that_waits_is_not_lost_where_its_loop_ends(log: logging.Logger, out: io.StringIO) -> None:
    def turn() -> None:
        log.info("one")
        loop.stop()

    loop = asyncio.new_event_loop()
    loop.call_soon(turn)
    loop.run_forever()
    loop.close()
    log.handlers[0].flush()
    assert lines(out) == ["one"]
    asyncio.run(asyncio.sleep(0))
    log.info("two")
    assert lines(out) == ["one", "two"]


def test_an_exception_stands_below_its_line(log: logging.Logger, out: io.StringIO) -> None:
    try:
        raise ValueError("amiss")
    except ValueError:
        log.exception("failed")
    first, *trace = out.getvalue().splitlines()
    assert first.endswith("failed")
    assert trace[0].startswith("Traceback")
    assert trace[-1] == "ValueError: amiss"
