"""Archives made out of layouts, for tests to read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from isal import isal_zlib

from downloadd.archive import Deflater, Entry, Layout, Method, PayloadSlice


@dataclass(frozen=True)
class Packed:
    """An entry with its packed bytes."""

    entry: Entry
    payload: bytes


def pack(
    index: int,
    name: str,
    content: bytes,
    *,
    method: Method = Method.STORED,
    modified: float = 1_700_000_000.0,
) -> Packed:
    payload = content
    if method is Method.DEFLATED:
        deflater = Deflater()
        payload = deflater.update(content) + deflater.finish()
    entry = Entry(
        index=index,
        name=name,
        method=method,
        crc32=isal_zlib.crc32(content),
        size=len(content),
        packed_size=len(payload),
        modified=modified,
    )
    return Packed(entry, payload)


def sealed(files: Sequence[Packed]) -> Layout:
    layout = Layout()
    for file in files:
        layout.append(file.entry)
    layout.seal()
    return layout


def render(
    layout: Layout, files: Sequence[Packed], start: int = 0, stop: int | None = None
) -> bytes:
    """The archive's bytes, payloads filled in."""
    payloads = {file.entry.index: file.payload for file in files}
    return b"".join(chunks(layout, payloads, start, layout.size if stop is None else stop))


def chunks(layout: Layout, payloads: Mapping[int, bytes], start: int, stop: int) -> Iterator[bytes]:
    for piece in layout.slices(start, stop):
        if isinstance(piece, PayloadSlice):
            payload = payloads[piece.entry_index]
            assert piece.offset + piece.length <= len(payload)
            yield payload[piece.offset : piece.offset + piece.length]
        else:
            yield piece
