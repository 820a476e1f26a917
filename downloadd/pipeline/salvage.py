"""What an earlier run of a job left of a file on the temporary disk.

Everything here blocks and belongs in a worker thread. Nothing left is trusted
without a look: whole files are compared with the CRC-32 of their note, and the
bytes of others go through the digests once more.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from isal import isal_zlib

from downloadd.errors import SpoolError
from downloadd.pipeline.disk import disk_errors, remove_sync
from downloadd.pipeline.notes import Note, Whole
from downloadd.pipeline.spool import HOP, Absorber

#: Negative: raw deflate.
_RAW = -15


def find_sync(path: Path, stored: int) -> tuple[Note, int] | None:
    """The note of what is left at ``path``, and its bytes on disk; None where it is no use.

    ``stored``: how many of its packed bytes are not needed.
    """
    note = Note.read_sync(path)
    if note is None or (note.tail is not None and note.tail.base > stored):
        return None
    try:
        size = note.file(path).stat().st_size
    except OSError:
        return None
    if note.whole is None:
        return (note, size) if size and note.origin.validator else None
    return (note, size) if size == note.size_on_disk else None


def intact_sync(path: Path, note: Note, whole: Whole) -> bool:
    """Whether the bytes of a whole file, or of its tail, are those that were written.

    ``SpoolError`` where that cannot be told.
    """
    chunks = _read(note.file(path))
    if note.tail is not None:
        return _crc_of(chunks) == (note.tail.crc32, whole.packed_size - note.tail.base)
    return _crc_of(_inflated(chunks) if note.deflated else chunks) == (whole.crc32, whole.size)


def go_on_sync(path: Path, note: Note, absorber: Absorber) -> int:
    """Bring an absorber to where the bytes at ``path`` end; returns the file's bytes so far.

    Raises ``SpoolError`` where they cannot be read.
    """
    if note.deflated:
        # A compressor cannot be put where another one stopped: it does its work again.
        left = path.with_name(f"{path.name}.left")
        with disk_errors():
            path.replace(left)
        try:
            for chunk in _inflated(_read(left)):
                absorber.absorb_sync([chunk])
        finally:
            remove_sync(left)
    else:
        for chunk in _read(path):
            absorber.digester.update(chunk)
        absorber.go_on_sync(absorber.digester.size)
    return absorber.digester.size


def _read(path: Path) -> Iterator[bytes]:
    with disk_errors(), path.open("rb", buffering=0) as file:
        while chunk := file.read(HOP):
            yield chunk


def _inflated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Inflate as far as it goes; ``SpoolError`` where it is no deflate stream."""
    stream = zlib.decompressobj(_RAW)
    try:
        for chunk in chunks:
            rest = chunk
            while data := stream.decompress(rest, HOP):  # a KiB can be a MiB
                yield data
                rest = stream.unconsumed_tail
    except zlib.error as exc:
        raise SpoolError("A temporary file of the server is damaged.") from exc


def _crc_of(chunks: Iterator[bytes]) -> tuple[int, int]:
    crc = size = 0
    for chunk in chunks:
        crc, size = isal_zlib.crc32(chunk, crc), size + len(chunk)
    return crc, size
