"""Entry: what it refuses, and its JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.archive import Entry, Method

_GOOD: dict[str, Any] = {
    "index": 0,
    "name": "a",
    "method": 8,
    "crc32": 1,
    "size": 2,
    "packedSize": 3,
    "modified": 4.5,
}


@given(
    st.builds(
        Entry,
        index=st.integers(-1, 10**6),
        name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
        method=st.just(Method.DEFLATED),
        crc32=st.integers(0, 2**32 - 1),
        size=st.integers(0, 2**64 - 1),
        packed_size=st.integers(0, 2**64 - 1),
        modified=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_json_round_trip(entry: Entry) -> None:
    """An entry survives being written as JSON text."""
    assert Entry.from_json(json.loads(json.dumps(entry.to_json()))) == entry


@pytest.mark.parametrize(
    "change",
    [
        {"index": -2},
        {"index": True},
        {"index": 1.0},
        {"name": ""},
        {"name": None},
        {"name": "x" * 65_536},
        {"name": "\ud800"},
        {"method": 12},
        {"method": 0},  # stored, but size and packed size differ
        {"crc32": 2**32},
        {"crc32": -1},
        {"size": -1},
        {"packedSize": 2**64},
        {"packedSize": "3"},
        {"modified": float("nan")},
        {"modified": float("inf")},
        {"modified": None},
        {"more": 1},
    ],
)
def test_what_no_archive_can_hold_is_refused(change: dict[str, Any]) -> None:
    """A damaged checkpoint raises ValueError instead of damaging the archive."""
    assert Entry.from_json(_GOOD).size == 2
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own sentence
        Entry.from_json(_GOOD | change)


def test_a_missing_field_is_refused() -> None:
    """Nothing is guessed for a field that is not there."""
    for key in _GOOD:
        with pytest.raises(ValueError, match="exactly the fields"):
            Entry.from_json({name: value for name, value in _GOOD.items() if name != key})
