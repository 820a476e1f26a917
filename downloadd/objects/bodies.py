"""Bodies on their way into a store: checked against what was announced."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from isal import isal_zlib

from downloadd.errors import StorageCorrupt
from downloadd.ports import PartBody


async def verified(body: PartBody) -> AsyncIterator[bytes]:
    """Yield a body's chunks, none empty; ``StorageCorrupt`` in place of the last if it is wrong.

    Wrong is: more or fewer bytes than ``size``, or another CRC-32 than
    ``crc32``. As the chunk that completes it is held back until it is
    compared, no store ever has such a body whole. isal takes some 20 µs for
    the CRC of 1 MiB, so it is done inline.
    """
    crc = received = 0
    async with contextlib.aclosing(body.chunks()) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            if not chunk:
                continue
            crc = isal_zlib.crc32(chunk, crc)
            received += len(chunk)
            if received >= body.size:
                _compare(body, received, crc)
            yield chunk
    if received < body.size or not received:
        _compare(body, received, crc)


def _compare(body: PartBody, received: int, crc: int) -> None:
    if received != body.size:
        raise StorageCorrupt(
            f"A body of {body.size} bytes came with {received} bytes; it was not stored."
        )
    if crc != body.crc32:
        raise StorageCorrupt(
            f"A body's CRC-32 is {crc:08x} and not {body.crc32:08x}; it was not stored."
        )


class MemoryBody:
    """A body whose bytes are in memory."""

    def __init__(self, chunks: list[bytes], body: PartBody) -> None:
        self._chunks = chunks
        self.offset = body.offset
        self.size = body.size
        self.crc32 = body.crc32

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


async def in_memory(body: PartBody) -> MemoryBody:
    """Read a body once; ``StorageCorrupt`` as in ``verified``."""
    return MemoryBody([chunk async for chunk in verified(body)], body)
