"""A file as it comes to be packed: once more, or for the first time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from downloadd.archive import Entry, Method
from downloadd.model import Record
from downloadd.pipeline.notes import Note
from downloadd.pipeline.payload import Payload
from downloadd.ports import Transfer


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed(Record):
    """A file that an earlier run has packed, and whose bytes are needed once more."""

    entry: Entry
    sha256: str
    #: How many of the packed bytes the storage has already, from the beginning.
    stored: int
    #: By which its source can tell that it is the same file still.
    validator: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched(Record):
    """A file that is here, whole and verified."""

    payload: Payload
    method: Method
    crc32: int
    size: int
    packed_size: int
    sha256: str
    #: From the source, seconds since the epoch.
    modified: float | None
    #: File name that the source gave, raw.
    disposition: str | None
    #: By which the source can tell that it is the same file still.
    validator: str | None
    #: Requests made for it.
    attempts: int
    #: How the last of them went; None where an earlier run has left the file.
    transfer: Transfer | None = None

    @classmethod
    def of(cls, note: Note, payload: Payload) -> Fetched:
        """What a payload's note says of it. The note tells of a whole file."""
        if (whole := note.whole) is None:
            raise AssertionError("the file has not been fetched to its end")
        return cls(
            payload=payload,
            method=Method.DEFLATED if note.deflated else Method.STORED,
            crc32=whole.crc32,
            size=whole.size,
            packed_size=whole.packed_size,
            sha256=whole.sha256,
            modified=note.origin.modified,
            disposition=note.origin.file_name,
            validator=note.origin.validator,
            attempts=whole.attempts,
        )


def payload_of(task: asyncio.Task[Fetched]) -> Payload | None:
    """The payload of a fetch that has ended well, and that nobody has taken."""
    if task.cancelled() or task.exception() is not None:
        return None
    return task.result().payload
