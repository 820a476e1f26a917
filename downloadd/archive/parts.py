"""Where an archive is cut into the parts of a multipart upload.

S3 takes 1 to 10,000 parts of 5 MiB to 5 GiB, the last one of any size
(Amazon S3 User Guide, "Amazon S3 multipart upload limits"). The archive's size
is not known when its first parts are sent, so that the bounds depend on the
part's number alone: small parts for long, then ever larger ones.
"""

from __future__ import annotations

from collections.abc import Iterator

_MIB = 1024 * 1024

#: Of S3: the number of parts, and the bytes of each.
MAX_PARTS = 10_000
MAX_PART_SIZE = 5 * 1024 * _MIB

#: Bytes of the first parts, where nothing else is asked for.
BASE_PART_SIZE = 16 * _MIB

#: So many parts have the base size (78 GiB of 16 MiB); then it doubles every so many.
_EVEN_PARTS = 5_000
_STEP_PARTS = 500


def part_bounds(number: int, base: int = BASE_PART_SIZE) -> tuple[int, int]:
    """Byte range, end exclusive, of part ``number`` (from 1) of a long enough archive.

    With the default base, 10,000 parts cover 8.8 TiB. Raises ``ValueError``
    for a number or base that S3 would refuse.
    """
    if not 1 <= number <= MAX_PARTS:
        raise ValueError(f"An upload has parts 1 to {MAX_PARTS}, not {number}.")
    start, first = 0, 1
    for count, size in _runs(base):
        if number < first + count:
            start += (number - first) * size
            return start, start + size
        start += count * size
        first += count
    raise AssertionError("the runs cover every part")


def part_count(size: int, base: int = BASE_PART_SIZE) -> int:
    """How many parts an archive of ``size`` bytes has; at least one.

    Raises ``ValueError`` for more bytes than fit.
    """
    start, parts = 0, 0
    for count, part_size in _runs(base):
        needed = -(-(size - start) // part_size)
        if needed <= count:
            return max(1, parts + needed)
        start += count * part_size
        parts += count
    raise ValueError(f"{size} bytes do not fit into {MAX_PARTS} parts.")


def _runs(base: int) -> Iterator[tuple[int, int]]:
    """Runs of parts of equal size: how many, and the bytes of each."""
    if not 1 <= base <= MAX_PART_SIZE:
        raise ValueError(f"A part has 1 to {MAX_PART_SIZE} bytes, not {base}.")
    yield _EVEN_PARTS, base
    size = base
    for _ in range((MAX_PARTS - _EVEN_PARTS) // _STEP_PARTS):
        size = min(size * 2, MAX_PART_SIZE)
        yield _STEP_PARTS, size
