"""The bytes of ZIP records, after PKWARE's APPNOTE.TXT 6.3.10.

Sizes and CRC-32 are known before an entry is written, so that there are no
data descriptors. Everything is a pure function of the entry: times are UTC.
"""

from __future__ import annotations

import struct
import time

from downloadd.archive.entry import Entry

#: What a 16- or 32-bit field says when the ZIP64 record holds the value (4.4.1.4).
_FULL16 = 0xFFFF
_FULL32 = 0xFFFFFFFF

#: Specification 6.3, on Unix (4.4.2): the attributes hold a mode.
_MADE_BY = (3 << 8) | 63
#: Folders and deflate; ZIP64 (4.4.3.2).
_NEEDED, _NEEDED_ZIP64 = 20, 45
#: The name is UTF-8 (4.4.4, bit 11).
_UTF8 = 1 << 11
#: A regular file, rw-r--r--.
_ATTRIBUTES = 0o100644 << 16

#: 1980-01-01: MS-DOS time begins. It ends in 2107, but a signed 32-bit
#: extended timestamp ends in January 2038, and both are to say the same.
_FIRST_TIME = 315_532_800
_LAST_TIME = (1 << 31) - 1

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
#: Info-ZIP's extended timestamp (4.6.1, 0x5455): the modification time alone.
_TIMESTAMP = struct.Struct("<2HBi")
_EXTRA = struct.Struct("<2H")
_ZIP64_TAG, _TIMESTAMP_TAG = 0x0001, 0x5455


def local_header_size(entry: Entry) -> int:
    """Length of ``local_header`` without making it."""
    zip64 = _EXTRA.size + 16 if _is_large(entry) else 0
    return _LOCAL.size + len(entry.name.encode()) + zip64 + _TIMESTAMP.size


def local_header(entry: Entry) -> bytes:
    """The record before an entry's payload (4.3.7)."""
    large = _is_large(entry)
    name = entry.name.encode()
    # In a local header the ZIP64 field holds both sizes or is not there (4.5.3).
    extra = _zip64(entry.size, entry.packed_size) if large else b""
    extra += _timestamp(entry)
    header = _LOCAL.pack(
        b"PK\x03\x04",
        _NEEDED_ZIP64 if large else _NEEDED,
        _flags(entry),
        entry.method,
        *_dos_time(entry),
        entry.crc32,
        _FULL32 if large else entry.packed_size,
        _FULL32 if large else entry.size,
        len(name),
        len(extra),
    )
    return header + name + extra


def central_header_size(entry: Entry, offset: int) -> int:
    """Length of ``central_header`` without making it."""
    wide = len(_wide_fields(entry, offset))
    zip64 = _EXTRA.size + 8 * wide if wide else 0
    return _CENTRAL.size + len(entry.name.encode()) + zip64 + _TIMESTAMP.size


def central_header(entry: Entry, offset: int) -> bytes:
    """The entry's record in the central directory (4.3.12).

    ``offset`` is where its local header begins.
    """
    wide = _wide_fields(entry, offset)
    name = entry.name.encode()
    extra = (_zip64(*wide) if wide else b"") + _timestamp(entry)
    header = _CENTRAL.pack(
        b"PK\x01\x02",
        _MADE_BY,
        _NEEDED_ZIP64 if wide else _NEEDED,
        _flags(entry),
        entry.method,
        *_dos_time(entry),
        entry.crc32,
        min(entry.packed_size, _FULL32),
        min(entry.size, _FULL32),
        len(name),
        len(extra),
        0,  # comment length
        0,  # disk
        0,  # internal attributes
        _ATTRIBUTES,
        min(offset, _FULL32),
    )
    return header + name + extra


def end_records(count: int, offset: int, size: int) -> bytes:
    """What follows a central directory of ``count`` entries and ``size`` bytes at ``offset``.

    The ZIP64 record and its locator (4.3.14, 4.3.15) where a field of the
    classic record (4.3.16) cannot hold its value.
    """
    classic = _END.pack(
        b"PK\x05\x06",
        0,  # this disk
        0,  # the directory's disk
        min(count, _FULL16),
        min(count, _FULL16),
        min(size, _FULL32),
        min(offset, _FULL32),
        0,  # comment length
    )
    if count < _FULL16 and size < _FULL32 and offset < _FULL32:
        return classic
    zip64 = _END64.pack(
        b"PK\x06\x06",
        _END64.size - 12,  # the record without its first two fields
        _MADE_BY,
        _NEEDED_ZIP64,
        0,  # this disk
        0,  # the directory's disk
        count,
        count,
        size,
        offset,
    )
    locator = _LOCATOR64.pack(b"PK\x06\x07", 0, offset + size, 1)
    return zip64 + locator + classic


def _is_large(entry: Entry) -> bool:
    return entry.size >= _FULL32 or entry.packed_size >= _FULL32


def _wide_fields(entry: Entry, offset: int) -> list[int]:
    """The values for the central ZIP64 field, in the order that 4.5.3 sets."""
    return [value for value in (entry.size, entry.packed_size, offset) if value >= _FULL32]


def _zip64(*values: int) -> bytes:
    return struct.pack(f"<2H{len(values)}Q", _ZIP64_TAG, 8 * len(values), *values)


def _timestamp(entry: Entry) -> bytes:
    payload = _TIMESTAMP.size - _EXTRA.size
    return _TIMESTAMP.pack(_TIMESTAMP_TAG, payload, 1, _seconds(entry))


def _flags(entry: Entry) -> int:
    return 0 if entry.name.isascii() else _UTF8


def _seconds(entry: Entry) -> int:
    return int(min(max(entry.modified, _FIRST_TIME), _LAST_TIME))


def _dos_time(entry: Entry) -> tuple[int, int]:
    """Time and date in two-second steps (4.4.6)."""
    year, month, day, hour, minute, second, *_ = time.gmtime(_seconds(entry))
    clock = hour << 11 | minute << 5 | second // 2
    return clock, (year - 1980) << 9 | month << 5 | day
