"""What the archive knows of one file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from downloadd.model import Record

#: The longest name that the 16-bit length field can say (APPNOTE 4.4.10).
_MAX_NAME_BYTES = 0xFFFF
_MAX_CRC = 0xFFFFFFFF
_MAX_SIZE = 0xFFFFFFFFFFFFFFFF

#: The fields of an entry in JSON, and the types each may have (no booleans).
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "index": (int,),
    "name": (str,),
    "method": (int,),
    "crc32": (int,),
    "size": (int,),
    "packedSize": (int,),
    "modified": (int, float),
}


class Method(IntEnum):
    """How an entry's bytes lie in the archive (APPNOTE 4.4.5)."""

    STORED = 0
    DEFLATED = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry(Record):
    """A finished file: all that the archive's bytes around its payload depend on.

    Raises ``ValueError`` for values that no ZIP archive can hold.
    """

    #: Position in the order asked for, from 0; -1 for the manifest.
    index: int
    #: Path in the archive: safe, unique, forward slashes.
    name: str
    method: Method
    #: CRC-32 (ISO-HDLC) of the bytes before they were packed.
    crc32: int
    #: Bytes before they were packed.
    size: int
    #: Bytes as they lie in the archive.
    packed_size: int
    #: Seconds since the epoch; brought into the years 1980 to 2038 when written.
    modified: float

    def __post_init__(self) -> None:
        if self.index < -1:
            raise ValueError(f"{self.index} is no entry's index.")
        if not 0 < len(self.name.encode()) <= _MAX_NAME_BYTES:
            raise ValueError("An entry's name has between 1 and 65,535 bytes.")
        if not 0 <= self.crc32 <= _MAX_CRC:
            raise ValueError("A CRC-32 has 32 bits.")
        if not (0 <= self.size <= _MAX_SIZE and 0 <= self.packed_size <= _MAX_SIZE):
            raise ValueError("An entry's size has at most 64 bits.")
        if self.method is Method.STORED and self.size != self.packed_size:
            raise ValueError("A stored entry takes as many bytes as it has.")
        if not math.isfinite(self.modified):
            raise ValueError("An entry's time is a finite number of seconds.")

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` makes the same entry of; for checkpoints."""
        return {
            "index": self.index,
            "name": self.name,
            "method": self.method.value,
            "crc32": self.crc32,
            "size": self.size,
            "packedSize": self.packed_size,
            "modified": self.modified,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Read what ``to_json`` wrote. ``ValueError`` for anything else."""
        if data.keys() != _FIELDS.keys():
            raise ValueError(f"An entry has exactly the fields {', '.join(_FIELDS)}.")
        for key, types in _FIELDS.items():
            if type(data[key]) not in types:
                raise ValueError(f"An entry's {key} is no {type(data[key]).__name__}.")
        return cls(
            index=data["index"],
            name=data["name"],
            method=Method(data["method"]),
            crc32=data["crc32"],
            size=data["size"],
            packed_size=data["packedSize"],
            modified=data["modified"],
        )
