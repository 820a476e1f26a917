"""Parts of an archive: cut from the layout, read from payloads, hashed in order."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from isal import isal_zlib

from downloadd.archive import Layout
from downloadd.pipeline.payload import Payload
from downloadd.pipeline.spool import HOP, Spool
from downloadd.ports import Twin


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some of a payload's bytes."""

    payload: Payload
    offset: int
    length: int


Piece = bytes | Stretch


class ArchivePart:
    """A ``PartBody`` over header bytes and payloads."""

    def __init__(self, spool: Spool, number: int, offset: int, pieces: Sequence[Piece]) -> None:
        """Take the part's bytes in order; nothing is read yet."""
        self.number = number
        self.offset = offset
        self.size = sum(map(_length, pieces))
        #: Set by ``ArchiveHash.add``.
        self.crc32 = 0
        self.in_memory = all(isinstance(it, bytes) or it.payload.in_memory for it in pieces)
        #: Where the storage has all of these bytes already.
        self.twin = _twin(pieces)
        self._spool = spool
        self._runs = list(_runs(pieces))

    @classmethod
    def plan(
        cls,
        spool: Spool,
        layout: Layout,
        payloads: Mapping[int, Payload],
        number: int,
        start: int,
        stop: int,
    ) -> ArchivePart | None:
        """The part from ``start`` to ``stop`` of the layout; None while a payload is missing."""
        try:
            return cls(spool, number, start, list(_pieces(layout, payloads, start, stop)))
        except KeyError:
            return None

    async def chunks(self) -> AsyncIterator[bytes]:
        for run in self._runs:
            yield _read(run) if self.in_memory else await self._spool.run(_read, run)

    def pieces_sync(self) -> Iterator[bytes | memoryview]:
        """The same bytes, blocking; each piece is to be used before the next is asked for."""
        buffer = memoryview(bytearray(min(HOP, self.size)))
        for run in self._runs:
            for piece in run:
                if isinstance(piece, bytes):
                    yield piece
                else:
                    view = buffer[: piece.length]
                    piece.payload.read_into_sync(piece.offset, view)
                    yield view


class ArchiveHash:
    """SHA-256 of the archive, fed part by part, in order, before each is sent.

    The parts' bytes have just been written, so they are read from the page
    cache; that costs less than reading the archive back from the storage.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        # Tasks get an asyncio.Lock in the order in which they asked for it,
        # and tasks start in the order in which they were made.
        self._turn = asyncio.Lock()

    async def add(self, part: ArchivePart, spool: Spool) -> None:
        """Take the next part; sets its ``crc32``."""
        async with self._turn:
            if part.in_memory and part.size <= HOP // 4:
                self._add_sync(part)
            else:
                await spool.run(self._add_sync, part)

    def _add_sync(self, part: ArchivePart) -> None:
        crc = 0
        for chunk in part.pieces_sync():
            self._sha256.update(chunk)
            crc = isal_zlib.crc32(chunk, crc)
        part.crc32 = crc

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _pieces(
    layout: Layout, payloads: Mapping[int, Payload], start: int, stop: int
) -> Iterator[Piece]:
    for piece in layout.slices(start, stop):
        if isinstance(piece, bytes):
            yield piece
        else:
            payload = payloads[piece.entry_index]
            done = 0
            while done < piece.length:  # no piece larger than a hop
                length = min(HOP, piece.length - done)
                yield Stretch(payload, piece.offset + done, length)
                done += length


def _twin(pieces: Sequence[Piece]) -> Twin | None:
    """Of a part that is some of one stored source and nothing else."""
    first = pieces[0]
    if isinstance(first, bytes) or first.payload.twin is None:
        return None
    if any(isinstance(piece, bytes) or piece.payload is not first.payload for piece in pieces):
        return None
    return first.payload.twin.evolve(offset=first.offset)


def _runs(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Group pieces so that one hop to a thread reads about ``HOP`` bytes."""
    run: list[Piece] = []
    size = 0
    for piece in pieces:
        length = _length(piece)
        if run and size + length > HOP:
            yield run
            run, size = [], 0
        run.append(piece)
        size += length
    if run:
        yield run


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.length


def _read(run: list[Piece]) -> bytes:
    parts = [
        piece if isinstance(piece, bytes) else piece.payload.read_sync(piece.offset, piece.length)
        for piece in run
    ]
    return parts[0] if len(parts) == 1 else b"".join(parts)
