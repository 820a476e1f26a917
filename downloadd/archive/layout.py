"""A ZIP archive as a layout: which bytes lie where, without holding the files.

Entries are appended as they are finished. From then on any range of bytes
can be told, in any order and as often as wanted: headers as bytes, payloads
as references. Nothing that is determined changes later, so that parts of the
archive can be sent while the rest is not known yet.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from downloadd.archive import records
from downloadd.archive.entry import Entry
from downloadd.model import Record

#: Neighbouring records are given together up to about this many bytes.
_BUNDLE = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadSlice(Record):
    """A stretch of an entry's packed bytes."""

    #: ``Entry.index``.
    entry_index: int
    #: From the beginning of the packed bytes.
    offset: int
    length: int


#: A piece of the archive and where it begins.
_Piece = tuple[int, bytes | PayloadSlice]


class Layout:
    """The bytes of an archive, determined from its beginning up to ``size``."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._names: set[str] = set()
        #: Position in ``_entries`` by ``Entry.index``.
        self._positions: dict[int, int] = {}
        # 16 bytes an entry: where its local header and its payload begin.
        self._headers = array("Q")
        self._payloads = array("Q")
        self._size = 0
        self._directory: _Directory | None = None

    @property
    def entries(self) -> Sequence[Entry]:
        """The entries in the order in which they lie in the archive."""
        return tuple(self._entries)

    @property
    def size(self) -> int:
        """How many bytes are determined; the whole archive's, once sealed."""
        return self._size

    @property
    def sealed(self) -> bool:
        """Whether the archive is complete."""
        return self._directory is not None

    def append(self, entry: Entry) -> None:
        """Put an entry behind the last one.

        Raises ``ValueError`` when the layout is sealed or has an entry of that
        index or name; nothing is changed then.
        """
        if self.sealed:
            raise ValueError("The archive is complete; nothing can be added.")
        if entry.index in self._positions:
            raise ValueError(f"Entry {entry.index} is in the archive already.")
        if entry.name in self._names:
            raise ValueError(f"The name of entry {entry.index} is in the archive already.")
        payload = self._size + records.local_header_size(entry)
        self._headers.append(self._size)
        self._payloads.append(payload)
        self._positions[entry.index] = len(self._entries)
        self._names.add(entry.name)
        self._entries.append(entry)
        self._size = payload + entry.packed_size

    def seal(self) -> None:
        """Close the archive with its central directory.

        The directory lists the entries in the order asked for, the manifest
        last. Raises ``ValueError`` when the layout is sealed already.
        """
        if self.sealed:
            raise ValueError("The archive is complete already.")
        order = sorted(self._positions.items(), key=itemgetter(0))
        if order and order[0][0] < 0:
            order.append(order.pop(0))
        located = [(self._entries[at], self._headers[at]) for _, at in order]
        self._directory = _Directory(self._size, located)
        self._size = self._directory.end

    def span(self, index: int) -> tuple[int, int]:
        """Where an entry's local header begins and its payload ends.

        Raises ``KeyError`` when there is no entry of that index.
        """
        position = self._positions[index]
        return self._headers[position], self._payload_end(position)

    def slices(self, start: int, stop: int) -> Iterator[bytes | PayloadSlice]:
        """Yield the archive's bytes from ``start`` to before ``stop``, in order.

        Takes time for what is yielded and a binary search. Raises
        ``ValueError`` (at once) for a range that is not determined yet.
        """
        if not 0 <= start <= stop <= self._size:
            raise ValueError(f"Bytes {start} to {stop} are not among the first {self._size}.")
        return _bundled(_cut(self._pieces(start), start, stop))

    def _payload_end(self, position: int) -> int:
        return self._payloads[position] + self._entries[position].packed_size

    def _pieces(self, start: int) -> Iterator[_Piece]:
        """All pieces from the one that holds ``start``."""
        first = max(0, bisect_right(self._headers, start) - 1)
        for position in range(first, len(self._entries)):
            entry = self._entries[position]
            if start < self._payloads[position]:
                yield self._headers[position], records.local_header(entry)
            if start < self._payload_end(position):
                payload = PayloadSlice(entry_index=entry.index, offset=0, length=entry.packed_size)
                yield self._payloads[position], payload
        if self._directory is not None:
            yield from self._directory.pieces(start)


class _Directory:
    """The central directory and the records behind it; 8 bytes an entry are kept."""

    def __init__(self, start: int, located: Sequence[tuple[Entry, int]]) -> None:
        self._located = located
        self._starts = array("Q")
        end = start
        for entry, offset in located:
            self._starts.append(end)
            end += records.central_header_size(entry, offset)
        self._tail = records.end_records(len(located), start, end - start)
        self._tail_start = end
        self.end = end + len(self._tail)

    def pieces(self, start: int) -> Iterator[_Piece]:
        """All pieces from the one that holds ``start``."""
        first = max(0, bisect_right(self._starts, start) - 1)
        for position in range(first, len(self._located)):
            yield self._starts[position], records.central_header(*self._located[position])
        yield self._tail_start, self._tail


def _cut(pieces: Iterable[_Piece], start: int, stop: int) -> Iterator[bytes | PayloadSlice]:
    """What of the pieces lies between ``start`` and ``stop``; takes no piece behind it."""
    if start == stop:
        return
    for begin, piece in pieces:
        length = len(piece) if isinstance(piece, bytes) else piece.length
        low, high = max(start - begin, 0), min(stop - begin, length)
        if low < high:
            yield _sliced(piece, low, high)
        if begin + length >= stop:
            return


def _sliced(piece: bytes | PayloadSlice, low: int, high: int) -> bytes | PayloadSlice:
    if isinstance(piece, bytes):
        return piece[low:high]
    return PayloadSlice(entry_index=piece.entry_index, offset=low, length=high - low)


def _bundled(pieces: Iterable[bytes | PayloadSlice]) -> Iterator[bytes | PayloadSlice]:
    """Join neighbouring records, so that a directory is not sent in crumbs."""
    bundle = bytearray()
    for piece in pieces:
        if isinstance(piece, bytes):
            bundle += piece
            if len(bundle) < _BUNDLE:
                continue
        if bundle:
            yield bytes(bundle)
            bundle.clear()
        if not isinstance(piece, bytes):
            yield piece
    if bundle:
        yield bytes(bundle)
