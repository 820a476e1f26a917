"""Bytes to JSON."""

from __future__ import annotations

import json

import pytest

from downloadd.errors import ValidationError
from downloadd.web.body import MAX_VALUES, canonical_hash, decode


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"7",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 1} x',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    """Everything but one well-formed JSON object in UTF-8 is a validation error."""
    with pytest.raises(ValidationError):
        decode(raw)


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "1e999"])
def test_numbers_that_are_too_large_are_called_so(number: str) -> None:
    """The sentence is ours, not Python's advice on its own limits."""
    with pytest.raises(ValidationError) as caught:
        decode(f'{{"a": {number}}}'.encode())
    assert caught.value.message == "The body is not valid JSON: a number is too large."


def test_the_largest_job_is_no_body_of_many_values() -> None:
    """1,000 files with all that may be said of each, 20 headers included; commas in strings."""
    headers = {f"X-{number}": "a,b" for number in range(20)}
    file = {
        "url": "https://files.example/" + "," * 100 + "?[]={}\\",
        "file_id": 70000,
        "name": '"a", "b", [c], {d}',
        "sha256": "0" * 64,
        "md5": "0" * 32,
        "size": 1,
        "headers": headers,
    }
    body = {"files": [file] * 1000}
    raw = json.dumps(body).encode()
    assert raw.count(b",") > MAX_VALUES
    assert decode(raw) == body


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":[' + b",".join([b'""'] * 100_000) + b"]}",
        b'{"a":[' + b",".join([b"0"] * (MAX_VALUES + 1)) + b"]}",
        b'{"a":[' + b",".join([b"[[[]]]"] * (MAX_VALUES // 3)) + b"]}",
        b'{"a":"\\\\",' + b",".join(b'"%d":0' % i for i in range(MAX_VALUES)) + b"}",
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_many_values_are_too_many(raw: bytes) -> None:
    """They are not so much as looked at."""
    with pytest.raises(ValidationError, match="more than 50,000 values"):
        decode(raw)


@pytest.mark.parametrize("end", [b"", b"\\", b'\\"'])
def test_a_string_without_an_end(end: bytes) -> None:
    """It is found to be none in one pass."""
    with pytest.raises(ValidationError, match="not valid JSON"):
        decode(b'{"a":[' + b"0," * MAX_VALUES + b'"' + b'\\"' * 90_000 + end)


def test_surrogate_pairs_are_characters() -> None:
    """An escaped pair is one character; only a lone half is refused."""
    assert decode(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


def test_hash_ignores_spacing_and_order() -> None:
    """Bodies that say the same have one hash, others have another."""
    first = canonical_hash(json.loads('{"a": 1, "b": [1, 2]}'))
    assert first == canonical_hash(json.loads('{"b":[1,2],"a":1}'))
    assert first != canonical_hash(json.loads('{"b":[2,1],"a":1}'))
