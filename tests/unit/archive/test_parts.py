"""Part bounds: within S3's limits, without gap, for every number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.archive import (
    BASE_PART_SIZE,
    MAX_PART_SIZE,
    MAX_PARTS,
    part_bounds,
    part_count,
)

_BASES = st.one_of(st.just(BASE_PART_SIZE), st.integers(1, MAX_PART_SIZE))


@given(st.integers(1, MAX_PARTS - 1), _BASES)
def test_parts_tile(number: int, base: int) -> None:
    """Each part begins where the one before ends, and none is smaller or too large."""
    start, stop = part_bounds(number, base)
    following, end = part_bounds(number + 1, base)
    assert stop == following
    assert base <= stop - start <= end - following <= MAX_PART_SIZE


def test_all_parts_cover_more_than_the_largest_object() -> None:
    """10,000 parts hold over 5 TiB; the first begins at 0."""
    assert part_bounds(1) == (0, 16 * 1024**2)
    assert part_bounds(5_000)[1] == 5_000 * 16 * 1024**2
    assert part_bounds(5_001)[1] - part_bounds(5_001)[0] == 32 * 1024**2
    assert part_bounds(MAX_PARTS)[1] > 5 * 1024**4


@given(st.integers(0, 5 * 1024**4))
def test_count_agrees_with_bounds(size: int) -> None:
    """The last part is the one that holds the last byte."""
    count = part_count(size)
    start, stop = part_bounds(count)
    assert start < size <= stop or (size, count) == (0, 1)


def test_limits() -> None:
    """What S3 would refuse is refused before anything is sent."""
    for number in (0, MAX_PARTS + 1):
        with pytest.raises(ValueError, match="parts 1 to"):
            part_bounds(number)
    for base in (0, MAX_PART_SIZE + 1):
        with pytest.raises(ValueError, match="bytes, not"):
            part_bounds(1, base)
    assert part_count(part_bounds(MAX_PARTS)[1]) == MAX_PARTS
    with pytest.raises(ValueError, match="do not fit"):
        part_count(part_bounds(MAX_PARTS)[1] + 1)
