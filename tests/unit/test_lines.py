"""Lines out of chunks: the same lines, wherever the chunks are cut."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from service.handlers.lines import Lines

LONGEST = 6


def cut(body: bytes, sizes: list[int]) -> list[bytes | None]:
    lines, found = Lines(LONGEST), []
    for size in [*sizes, len(body)]:
        found += lines.feed(body[:size])
        body = body[size:]
    return found + lines.end()


@given(st.text("ab\n\r", max_size=60), st.lists(st.integers(1, 9), max_size=20))
def test_lines_do_not_depend_on_where_chunks_end(text: str, sizes: list[int]) -> None:
    body = text.encode()
    expected = body.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert cut(body, sizes) == [line if len(line) <= LONGEST else None for line in expected]


def test_the_last_line_needs_no_newline_and_an_empty_body_has_none() -> None:
    assert cut(b"a\nb", []) == [b"a", b"b"]
    assert cut(b"a\n", []) == [b"a"]
    assert cut(b"", []) == []


def test_a_line_that_is_too_long_is_never_held() -> None:
    lines = Lines(1000)
    tracemalloc.start()
    try:
        for _ in range(10_000):
            assert lines.feed(b"x" * 1000) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000
    assert lines.feed(b"\nnext\n") == [None, b"next"]
