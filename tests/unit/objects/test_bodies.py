"""Bodies are compared with what was announced before they are whole anywhere."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

import pytest

from downloadd.errors import StorageCorrupt
from downloadd.objects.bodies import in_memory, verified


class Body:
    offset = 0

    def __init__(self, chunks: list[bytes], *, size: int, crc32: int) -> None:
        self.size = size
        self.crc32 = crc32
        self._chunks = chunks

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def body(*chunks: bytes, size: int | None = None, crc32: int | None = None) -> Body:
    data = b"".join(chunks)
    return Body(
        list(chunks),
        size=len(data) if size is None else size,
        crc32=zlib.crc32(data) if crc32 is None else crc32,
    )


async def test_a_right_body_passes_as_it_is() -> None:
    """Chunks come as they are, but for empty ones."""
    assert [chunk async for chunk in verified(body(b"ab", b"", b"c"))] == [b"ab", b"c"]
    assert [chunk async for chunk in verified(body())] == []


@pytest.mark.parametrize(
    ("wrong", "passed"),
    [
        (body(b"ab", b"c", crc32=0), [b"ab"]),
        (body(b"ab", b"c", size=4), [b"ab", b"c"]),
        (body(b"ab", b"c", size=2, crc32=zlib.crc32(b"ab")), [b"ab"]),
        (body(size=1), []),
        (body(crc32=1), []),
    ],
    ids=["crc", "short", "long", "empty", "empty-crc"],
)
async def test_a_wrong_body_never_comes_whole(wrong: Body, passed: list[bytes]) -> None:
    """The chunk that would complete a wrong body is not given out."""
    chunks = verified(wrong)
    assert [await anext(chunks) for _ in passed] == passed
    with pytest.raises(StorageCorrupt):
        await anext(chunks)


async def test_a_body_in_memory_is_read_once() -> None:
    """It can be had again and again from one reading."""
    kept = await in_memory(body(b"ab", b"c"))
    for _ in range(2):
        assert [chunk async for chunk in kept.chunks()] == [b"ab", b"c"]
    with pytest.raises(StorageCorrupt):
        await in_memory(body(b"ab", crc32=1))
