"""Deflater and the probe before it."""

from __future__ import annotations

import lzma
import random
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downloadd.archive import Deflater, compressible

_BLOCK = 256 * 1024
_TEXT = b"".join(b"line %d: %d\n" % (number, number * number) for number in range(60_000))


def _deflated(chunks: list[bytes]) -> bytes:
    deflater = Deflater()
    return b"".join(deflater.update(chunk) for chunk in chunks) + deflater.finish()


@given(st.lists(st.binary(max_size=500), max_size=10))
def test_zlib_inflates_it(chunks: list[bytes]) -> None:
    """The output is a raw deflate stream of the content."""
    inflater = zlib.decompressobj(-15)
    assert inflater.decompress(_deflated(chunks)) == b"".join(chunks)
    assert inflater.eof
    assert inflater.unused_data == b""


@settings(max_examples=30)
@given(st.lists(st.integers(0, len(_TEXT)), max_size=12))
def test_output_depends_on_the_content_alone(cuts: list[int]) -> None:
    """However the caller cuts the content, the packed bytes are the same."""
    edges = [0, *sorted(cuts), len(_TEXT)]
    chunks = [_TEXT[low:high] for low, high in pairwise(edges)]
    assert _deflated(chunks) == _deflated([_TEXT])


@pytest.mark.parametrize("size", [_BLOCK - 1, _BLOCK, _BLOCK + 1, 2 * _BLOCK])
def test_cuts_at_the_block_edge(size: int) -> None:
    """One byte more or less than a block, and single bytes at its edge, change nothing."""
    whole = _deflated([_TEXT[:size]])
    assert zlib.decompress(whole, -15) == _TEXT[:size]
    for edge in (1, size - 1, min(size, _BLOCK)):
        assert _deflated([_TEXT[:edge], b"", _TEXT[edge:size]]) == whole


def test_buffers_of_any_kind() -> None:
    """bytes, bytearray and memoryview are taken alike, and not kept."""
    buffer = bytearray(_TEXT)
    deflater = Deflater()
    packed = deflater.update(memoryview(buffer)[:1000]) + deflater.update(buffer[1000:])
    buffer[:] = bytes(len(buffer))
    buffer.clear()  # raises where a view of it is still held
    assert packed + deflater.finish() == _deflated([_TEXT])


def test_finished_is_finished() -> None:
    """Nothing can be added behind the end of the stream."""
    deflater = Deflater()
    assert zlib.decompress(deflater.finish(), -15) == b""
    with pytest.raises(ValueError, match="finished"):
        deflater.update(b"x")
    with pytest.raises(ValueError, match="finished"):
        deflater.finish()


def test_probe() -> None:
    """Text is worth deflating; random, packed, tiny and empty content is not."""
    noise = random.Random(1).randbytes(100_000)
    assert compressible(_TEXT)
    assert compressible(b"a" * 100)
    assert compressible(memoryview(_TEXT[:2000] + noise)[:4000])
    assert not compressible(noise)
    assert not compressible(lzma.compress(_TEXT))
    assert not compressible(b"")
    assert not compressible(b"short")
    # Only the beginning is looked at.
    assert not compressible(noise[:65_536] + _TEXT)
