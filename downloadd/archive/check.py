"""Comparing an archive's bytes with what its layout says of the files in it."""

from __future__ import annotations

import zlib

from isal import isal_zlib

from downloadd.archive.entry import Entry, Method
from downloadd.archive.layout import Layout

#: Negative: raw deflate.
_RAW = -15
#: Most bytes that are inflated at once.
_PIECE = 1 << 20


class ArchiveCheck:
    """Takes an archive's bytes from its first to its last, and compares each entry's CRC-32."""

    def __init__(self, layout: Layout) -> None:
        """``layout`` is sealed."""
        self._size = layout.size
        #: Entries that have not been read to their end, the next one last.
        self._ahead = [(layout.span(entry.index)[1], entry) for entry in reversed(layout.entries)]
        self._at = 0
        self._sum = _EntrySum()
        self._sound = True

    @property
    def intact(self) -> bool:
        """Whether all bytes were read and every file is what was packed."""
        return self._sound and not self._ahead and self._at == self._size

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        view, start = memoryview(data), self._at
        self._at += len(view)
        while self._ahead:
            stop, entry = self._ahead[-1]
            begin = stop - entry.packed_size
            if self._at < begin or not self._sound:
                return
            low, high = max(begin - start, 0), min(stop, self._at) - start
            self._take(entry, view[low:high])
            if self._at < stop:
                return
            self._sound &= self._sum.matches(entry)
            self._sum = _EntrySum()
            self._ahead.pop()

    def _take(self, entry: Entry, data: memoryview) -> None:
        try:
            self._sum.update(entry.method, data)
        except zlib.error:
            self._sound = False


class _EntrySum:
    def __init__(self) -> None:
        self._crc32 = self._size = 0
        self._stream = zlib.decompressobj(_RAW)

    def update(self, method: Method, data: memoryview) -> None:
        if method is Method.STORED:
            self._add(data)
            return
        rest: bytes | memoryview = data
        while piece := self._stream.decompress(rest, _PIECE):
            self._add(piece)
            rest = self._stream.unconsumed_tail

    def _add(self, data: bytes | memoryview) -> None:
        self._crc32 = isal_zlib.crc32(data, self._crc32)
        self._size += len(data)

    def matches(self, entry: Entry) -> bool:
        return (self._crc32, self._size) == (entry.crc32, entry.size)
