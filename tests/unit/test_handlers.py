"""What the door makes of bytes from the network: a request, or a refusal; never anything else."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.errors import BadArguments, Malformed
from service.handlers.body import Original, Submission, parse


def test_a_submission_is_its_job_and_its_arguments() -> None:
    submission = parse(b'{"job": "sleep", "args": {"seconds": 1.5, "job_id": null}}', Submission)
    assert submission == Submission("sleep", {"seconds": 1.5, "job_id": None})
    assert parse(b'{"job": "sleep"}', Submission).args == {}


@pytest.mark.parametrize(("body", "job_id"), [(b'{"job_id": 7}', 7), (b' {"job_id":"x"} ', "x")])
def test_the_original_form_is_a_number_or_a_text(body: bytes, job_id: int | str) -> None:
    assert parse(body, Original).job_id == job_id


DEEP = b'{"job":"a","args":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"

MALFORMED = {
    "nothing": b"",
    "no JSON": b"job=sleep",
    "cut off": b'{"job":"sl',
    "two documents": b'{"job":"a"}{"job":"a"}',
    "trailing comma": b'{"job":"a",}',
    "single quotes": b"{'job':'a'}",
    "comment": b'{"job":"a"} // a',
    "a name twice": b'{"job":"a","job":"a"}',
    "a name twice, once escaped": b'{"job":"a","\\u006aob":"b"}',
    "a name twice, further in": b'{"job":"a","args":{"x":[{"y":1,"y":2}]}}',
    "NaN": b'{"job":"a","args":{"x":NaN}}',
    "Infinity": b'{"job":"a","args":{"x":-Infinity}}',
    "deep": DEEP,
    "deep and open": b"[" * 100_000,
    "lone surrogate": b'{"job":"a","args":{"x":"\\ud800"}}',
    "lone surrogate as a name": b'{"job":"a","args":{"\\udfff":1}}',
    "surrogates in the wrong order": b'{"job":"a","args":{"x":"\\udc00\\ud800"}}',
    "invalid UTF-8": b'{"job":"\xff"}',
    "surrogate in UTF-8": b'{"job":"a","args":{"x":"\xed\xa0\x80"}}',
    "overlong UTF-8": b'{"job":"\xc0\xaf"}',
    "UTF-16": '{"job":"a"}'.encode("utf-16"),
    "UTF-32": '{"job":"a"}'.encode("utf-32"),
    "byte order mark": b'\xef\xbb\xbf{"job":"a"}',
    "control character": b'{"job":"a\n"}',
    "NUL": b'{"job":"a"}\0',
    "a number of 5000 digits": b'{"job":"a","args":{"x":' + b"1" * 5_000 + b"}}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_plain_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        parse(body, Submission)
    assert refused.value.status == 400
    assert len(refused.value.detail) < 500


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"7",
        b"[]",
        b'"job"',
        b"{}",
        b'{"job":7}',
        b'{"job":null}',
        b'{"job":"a","args":[]}',
        b'{"job":"a","args":null}',
        b'{"job":"a","arguments":{}}',
        b'{"job":"a","args":{"x":1e999}}',
    ],
)
def test_json_of_another_shape_is_bad_arguments(body: bytes) -> None:
    with pytest.raises(BadArguments) as refused:
        parse(body, Submission)
    assert refused.value.status == 422


@pytest.mark.parametrize("body", [b'{"job_id":1.5}', b'{"job_id":null}', b'{"job_id":true}', b'{"job_id":[]}', b"{}"])
def test_a_job_id_that_is_neither_number_nor_text_is_bad_arguments(body: bytes) -> None:
    with pytest.raises(BadArguments):
        parse(body, Original)


def parse_or_refuse(body: bytes) -> None:
    for kind in (Submission, Original):
        try:
            parsed = parse(body, kind)
        except (Malformed, BadArguments) as refused:
            msgspec.json.encode(refused.detail)  # it can be told to the client
        else:
            again = json.loads(msgspec.json.encode(parsed))  # what is stored is what a slot reads
            assert again == msgspec.to_builtins(parsed)


@given(st.binary(max_size=200))
@example(b'{"job_id":9223372036854775808}')
@example(b'{"job_id":-1' + b"0" * 400 + b"}")
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    parse_or_refuse(body)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('aé\0"\\\ud800\udfff\U0001f30a', max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=9,
)


@given(st.fixed_dictionaries({}, optional={"job": VALUES, "args": VALUES, "job_id": VALUES}), st.booleans())
def test_any_json_is_parsed_or_refused(document: dict[str, Any], ascii: bool) -> None:
    parse_or_refuse(json.dumps(document, ensure_ascii=ascii).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("depth", range(900, 1_100, 3))
def test_whatever_depth_is_let_in_can_be_stored(depth: int) -> None:
    parse_or_refuse(b'{"job":"a","args":{"a":' + b"[" * depth + b"]" * depth + b"}}")
