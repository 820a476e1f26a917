"""What a job needs to go on after its worker is gone.

The archive is a layout (ARCHITECTURE "The way of a job"), so this is small:
the entries in the order in which they lie in it, the multipart upload, and the
parts that the storage has acknowledged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from downloadd.archive import Entry
from downloadd.model import Record
from downloadd.ports import Part

log = structlog.get_logger(__name__)

#: Raised when the form below changes; a checkpoint of another form is not used.
_VERSION = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint(Record):
    #: The object that is being made.
    key: str
    upload_id: str
    entries: tuple[Entry, ...]
    parts: tuple[Part, ...]
    #: The central directory follows the entries: nothing more will be added.
    sealed: bool = False
    #: By the entry's index, for files of which bytes are still to be stored: what
    #: their sources may be asked with whether they are the same (``If-Range``).
    validators: Mapping[int, str] = field(default_factory=dict)
    #: SHA-256 of the whole archive, once every byte of it is determined and was seen.
    sha256: str | None = None

    def dump(self) -> str:
        return json.dumps(
            {
                "version": _VERSION,
                "key": self.key,
                "uploadId": self.upload_id,
                "entries": [entry.to_json() for entry in self.entries],
                "parts": [[it.number, it.size, it.etag, it.crc32] for it in self.parts],
                "sealed": self.sealed,
                "validators": list(self.validators.items()),
                "sha256": self.sha256,
            },
            separators=(",", ":"),
        )

    @classmethod
    def parse(cls, text: str) -> Checkpoint | None:
        """Read what ``dump`` wrote; None where it is another version's, or cannot be read."""
        try:
            data: dict[str, Any] = json.loads(text)
            return cls._load(data) if data["version"] == _VERSION else None
        except (ValueError, TypeError, LookupError):
            log.exception("checkpoint.unreadable")
            return None

    @classmethod
    def _load(cls, data: dict[str, Any]) -> Checkpoint:
        return cls(
            key=data["key"],
            upload_id=data["uploadId"],
            entries=tuple(Entry.from_json(entry) for entry in data["entries"]),
            parts=tuple(
                Part(number=number, size=size, etag=etag, crc32=crc32)
                for number, size, etag, crc32 in data["parts"]
            ),
            sealed=data["sealed"],
            validators=dict(data["validators"]),
            sha256=data["sha256"],
        )


def upload_of(text: str) -> tuple[str, str] | None:
    """Key and id of the multipart upload that a checkpoint tells of; None where it cannot be read.

    The object may be there too, if the upload was completed and nothing after it written.
    """
    checkpoint = Checkpoint.parse(text)
    return (checkpoint.key, checkpoint.upload_id) if checkpoint else None
