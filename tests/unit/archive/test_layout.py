"""Layout: any range of an archive, read back by Python's own zipfile."""

from __future__ import annotations

import io
import struct
import time
import zipfile
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.archive import Entry, Layout, Method, PayloadSlice
from tests.unit.archive.rendering import Packed, pack, render, sealed

_NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"),
    min_size=1,
    max_size=20,
)
_CONTENTS = st.tuples(_NAMES, st.binary(max_size=300), st.sampled_from(Method), st.floats(0, 5e9))


@st.composite
def _archives(draw: st.DrawFn) -> list[Packed]:
    contents = draw(st.lists(_CONTENTS, max_size=8, unique_by=lambda content: content[0]))
    order = draw(st.permutations(range(-1, len(contents) - 1)))
    return [
        pack(index, name, data, method=method, modified=modified)
        for index, (name, data, method, modified) in zip(order, contents, strict=True)
    ]


def _fake(index: int, size: int, *, packed: int | None = None, name: str | None = None) -> Entry:
    return Entry(
        index=index,
        name=name or f"file-{index}",
        method=Method.STORED if packed is None else Method.DEFLATED,
        crc32=index & 0xFFFFFFFF,
        size=size,
        packed_size=size if packed is None else packed,
        modified=1_700_000_000.0,
    )


def _header_bytes(layout: Layout, start: int, stop: int) -> bytes:
    pieces = list(layout.slices(start, stop))
    assert all(isinstance(piece, bytes) for piece in pieces)
    return b"".join(piece for piece in pieces if isinstance(piece, bytes))


def _directory_of(layout: Layout) -> bytes:
    """Everything behind the payloads."""
    end = max((layout.span(entry.index)[1] for entry in layout.entries), default=0)
    return _header_bytes(layout, end, layout.size)


@given(_archives())
def test_zipfile_reads_back_every_entry(files: list[Packed]) -> None:
    """Any entries give an archive with the same names, bytes, and order asked for."""
    data = render(sealed(files), files)
    asked = sorted(files, key=lambda file: (file.entry.index < 0, file.entry.index))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert [info.orig_filename for info in archive.infolist()] == [
            file.entry.name for file in asked
        ]
        assert [info.file_size for info in archive.infolist()] == [
            file.entry.size for file in asked
        ]
        assert [info.header_offset for info in archive.infolist()] == [
            sealed(files).span(file.entry.index)[0] for file in asked
        ]


@given(_archives(), st.data())
def test_any_range_is_a_slice_of_the_whole(files: list[Packed], data: st.DataObject) -> None:
    """slices(a, b) gives exactly the bytes a to b of the archive."""
    layout = sealed(files)
    whole = render(layout, files)
    assert len(whole) == layout.size
    start = data.draw(st.integers(0, layout.size))
    stop = data.draw(st.integers(start, layout.size))
    assert render(layout, files, start, stop) == whole[start:stop]


@given(_archives(), st.data())
def test_what_is_determined_does_not_change(files: list[Packed], data: st.DataObject) -> None:
    """Bytes given before the archive was complete are those of the complete one."""
    whole = render(sealed(files), files)
    layout = Layout()
    for file in files:
        layout.append(file.entry)
        start = data.draw(st.integers(0, layout.size))
        assert render(layout, files, start) == whole[start : layout.size]
        begin, end = layout.span(file.entry.index)
        assert end == layout.size
        assert whole[begin : begin + 4] == b"PK\x03\x04"
        assert whole[end - len(file.payload) : end] == file.payload


@given(_archives())
def test_layout_restored_from_its_entries_is_the_same(files: list[Packed]) -> None:
    """Entries written as JSON and read again give the same bytes."""
    again = Layout()
    for file in files:
        again.append(Entry.from_json(file.entry.to_json()))
    again.seal()
    assert render(again, files) == render(sealed(files), files)


def test_archive_without_entries() -> None:
    """An empty archive is the end record alone, and valid."""
    layout = sealed([])
    data = render(layout, [])
    assert len(data) == layout.size == 22
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == []


def test_neighbouring_records_come_together() -> None:
    """A directory of many entries is yielded in pieces of about 64 KiB, not record by record."""
    layout = Layout()
    for index in range(5_000):
        layout.append(_fake(index, 0))
    layout.seal()
    pieces = list(layout.slices(0, layout.size))
    assert len(pieces) < 15
    assert max(len(piece) for piece in pieces if isinstance(piece, bytes)) < 66_000


def test_payloads_are_references() -> None:
    """A payload is told by entry, offset and length, cut where the range cuts it."""
    layout = Layout()
    layout.append(_fake(7, 1000))
    begin, end = layout.span(7)
    assert list(layout.slices(end - 10, end - 4)) == [
        PayloadSlice(entry_index=7, offset=990, length=6)
    ]
    header, payload = layout.slices(begin, end)
    assert isinstance(header, bytes)
    assert payload == PayloadSlice(entry_index=7, offset=0, length=1000)


def test_refusals_change_nothing() -> None:
    """Duplicates, late entries and ranges that are not determined are refused."""
    layout = Layout()
    layout.append(_fake(0, 10))
    size = layout.size
    with pytest.raises(ValueError, match="Entry 0 is in the archive"):
        layout.append(_fake(0, 10, name="other"))
    with pytest.raises(ValueError, match="name of entry 1"):
        layout.append(_fake(1, 10, name="file-0"))
    for start, stop in ((0, size + 1), (-1, 5), (5, 4)):
        with pytest.raises(ValueError, match="not among the first"):
            layout.slices(start, stop)
    with pytest.raises(KeyError):
        layout.span(1)
    assert (layout.size, len(layout.entries), layout.sealed) == (size, 1, False)
    layout.seal()
    assert layout.sealed
    sealed_size = layout.size
    with pytest.raises(ValueError, match="nothing can be added"):
        layout.append(_fake(1, 10))
    with pytest.raises(ValueError, match="complete already"):
        layout.seal()
    assert layout.size == sealed_size


def test_utf8_flag_only_for_names_that_need_it() -> None:
    """Bit 11 is set for names beyond ASCII and nothing else."""
    files = [pack(0, "plain.txt", b"a"), pack(1, "día.txt", b"b")]
    with zipfile.ZipFile(io.BytesIO(render(sealed(files), files))) as archive:
        assert [info.flag_bits for info in archive.infolist()] == [0, 1 << 11]


def test_mode_and_version() -> None:
    """Entries are regular files with rw-r--r--, made on Unix, readable by version 2.0."""
    files = [pack(0, "a", b"a")]
    with zipfile.ZipFile(io.BytesIO(render(sealed(files), files))) as archive:
        info = archive.infolist()[0]
    assert info.external_attr >> 16 == 0o100644
    assert (info.create_system, info.extract_version) == (3, 20)


@pytest.mark.parametrize(
    ("modified", "shown", "stamp"),
    [
        (0.0, (1980, 1, 1, 0, 0, 0), 315_532_800),
        (1_700_000_001.9, (2023, 11, 14, 22, 13, 20), 1_700_000_001),
        (5e9, (2038, 1, 19, 3, 14, 6), 2**31 - 1),
    ],
)
def test_times(modified: float, shown: tuple[int, ...], stamp: int) -> None:
    """DOS time is UTC in two-second steps; both times are kept within what each can say."""
    files = [pack(0, "a", b"a", modified=modified)]
    data = render(sealed(files), files)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.infolist()[0]
    assert info.date_time == shown
    assert info.extra == struct.pack("<2HBi", 0x5455, 5, 1, stamp)
    assert data[31 : 31 + 9] == info.extra  # the local one, behind a name of one byte


def test_times_are_utc_wherever_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's time zone leaves no trace in the archive."""
    files = [pack(0, "a", b"a")]
    before = render(sealed(files), files)
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert render(sealed(files), files) == before
    finally:
        monkeypatch.undo()
        time.tzset()
    with zipfile.ZipFile(io.BytesIO(before)) as archive:
        shown = datetime(*archive.infolist()[0].date_time, tzinfo=UTC)
    assert shown.timestamp() == 1_700_000_000


_GIB4 = 1 << 32
_FULL = 0xFFFFFFFF


@pytest.mark.parametrize("size", [_FULL - 1, _FULL, _GIB4, 5 * _GIB4])
@pytest.mark.parametrize("packed", [100, _FULL - 1, _FULL, 3 * _GIB4])
def test_zip64_sizes(size: int, packed: int) -> None:
    """A local header has both 64-bit sizes or none; the directory those that need it."""
    layout = Layout()
    layout.append(_fake(0, size, packed=packed, name="x"))
    end = layout.span(0)[1]
    header_size = end - packed
    local = _header_bytes(layout, 0, header_size)
    large = size >= _FULL or packed >= _FULL
    assert struct.unpack_from("<H", local, 4) == (45 if large else 20,)
    expected = (_FULL, _FULL) if large else (packed, size)
    assert struct.unpack_from("<2I", local, 18) == expected
    assert len(local) == 30 + 1 + 9 + (20 if large else 0)
    if large:
        assert struct.unpack_from("<2H2Q", local, 31) == (1, 16, size, packed)

    layout.seal()
    central = _directory_of(layout)
    wide = [value for value in (size, packed) if value >= _FULL]
    assert struct.unpack_from("<H", central, 6) == (45 if large else 20,)
    assert struct.unpack_from("<2I", central, 20) == (min(packed, _FULL), min(size, _FULL))
    if wide:
        fields = struct.unpack_from(f"<2H{len(wide)}Q", central, 47)
        assert fields == (1, 8 * len(wide), *wide)


def test_zip64_offset_alone() -> None:
    """A small entry behind 4 GiB has its offset, and nothing else, in the ZIP64 field."""
    layout = Layout()
    layout.append(_fake(1, _GIB4 - 100))
    layout.append(_fake(0, 5, name="x"))
    offset = layout.span(0)[0]
    layout.seal()
    assert offset < _FULL
    layout = Layout()
    layout.append(_fake(1, _FULL - 46, name="x"))  # the next header begins just before
    layout.append(_fake(2, 0, name="y"))
    layout.append(_fake(0, 5, name="z"))
    assert layout.span(2)[0] < _FULL <= layout.span(0)[0]
    layout.seal()
    first = _directory_of(layout)  # of entry 0, in the order asked for
    assert struct.unpack_from("<2I", first, 20) == (5, 5)
    assert struct.unpack_from("<I", first, 42) == (_FULL,)
    assert struct.unpack_from("<2HQ", first, 47) == (1, 8, layout.span(0)[0])


def test_zip64_end_records() -> None:
    """Behind 4 GiB the ZIP64 record and locator hold the directory's place."""
    layout = Layout()
    layout.append(_fake(0, _GIB4, name="x"))
    start = layout.size
    layout.seal()
    tail = _directory_of(layout)
    end64, locator, end = tail[-98:-42], tail[-42:-22], tail[-22:]
    size = len(tail) - 98
    assert struct.unpack("<4sQ2H2I4Q", end64) == (
        b"PK\x06\x06", 44, 0x33F, 45, 0, 0, 1, 1, size, start,
    )  # fmt: skip
    assert struct.unpack("<4sIQI", locator) == (b"PK\x06\x07", 0, start + size, 1)
    assert struct.unpack("<4s4H2IH", end) == (b"PK\x05\x06", 0, 0, 1, 1, size, _FULL, 0)


@pytest.mark.parametrize(("count", "zip64"), [(65_534, False), (65_535, True), (65_600, True)])
def test_many_entries(count: int, zip64: bool) -> None:
    """From 65,535 entries on the ZIP64 record counts them; zipfile finds every one."""
    layout = Layout()
    for index in range(count):
        layout.append(_fake(index, 0, name=str(index)))
    layout.seal()
    data = render(layout, [])
    assert (data.count(b"PK\x06\x06", -98) == 1) is zip64
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == [str(index) for index in range(count)]


def test_looking_up_a_range_does_not_walk_the_entries() -> None:
    """A range at the end of a large archive takes as long as one at its beginning."""
    layout = Layout()
    for index in range(50_000):
        layout.append(_fake(index, 1000))
    layout.seal()

    def seconds(start: int) -> float:
        began = time.perf_counter()
        for _ in range(200):
            list(layout.slices(start, start + 100))
        return time.perf_counter() - began

    directory = layout.span(49_999)[1]
    near = min(seconds(50) for _ in range(5))
    for far in (directory - 500, directory + 50 * 40_000):
        assert min(seconds(far) for _ in range(5)) < 20 * near
