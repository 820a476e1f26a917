"""The note that lies beside a payload on the temporary disk.

A run that ends before its job does leaves its payloads there, killed or not;
by their notes the job's next run knows what they are and goes on with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from downloadd.model import Record
from downloadd.pipeline.disk import disk_errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin(Record):
    """What the first answer of a file said; a resumption must not contradict it."""

    size: int | None = None
    validator: str | None = None
    file_name: str | None = None
    content_type: str | None = None
    modified: float | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole(Record):
    """What is known of a file that was fetched to its end and verified."""

    crc32: int
    size: int
    packed_size: int
    sha256: str
    #: Requests made for it.
    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail(Record):
    """Which end of a payload is left; what lies before is stored."""

    #: Where it begins in the packed bytes.
    base: int
    crc32: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Note(Record):
    """All about a payload but its bytes."""

    origin: Origin
    deflated: bool
    #: None while it is being fetched.
    whole: Whole | None = None
    #: None while all of it is there.
    tail: Tail | None = None

    def file(self, path: Path) -> Path:
        """Where the bytes of the payload at ``path`` lie.

        A tail has a file of its own: at no moment does a note speak of bytes
        that are not, or no longer, there.
        """
        return path if self.tail is None else tail_path(path, self.tail.base)

    @property
    def size_on_disk(self) -> int:
        """Bytes of a whole file that are to be on the disk."""
        if self.whole is None:
            raise AssertionError("the file has not been fetched to its end")
        return self.whole.packed_size - (self.tail.base if self.tail else 0)

    def write_sync(self, path: Path) -> None:
        """Put the note beside the payload at ``path``, in place of an earlier one.

        Raises ``SpoolError``.
        """
        draft = note_path(path).with_suffix(".draft")
        with disk_errors():
            draft.write_text(json.dumps(asdict(self) | {"boot": boot_id()}))
            draft.replace(note_path(path))

    @classmethod
    def read_sync(cls, path: Path) -> Note | None:
        """The note of the payload at ``path``; None where there is none that counts.

        One from before the machine was started does not: its payload may never
        have reached the disk.
        """
        try:
            data: dict[str, Any] = json.loads(note_path(path).read_bytes())
            if data.pop("boot") != boot_id() or boot_id() is None:
                return None
            return cls(
                origin=Origin(**data["origin"]),
                deflated=data["deflated"],
                whole=Whole(**data["whole"]) if data["whole"] else None,
                tail=Tail(**data["tail"]) if data["tail"] else None,
            )
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return None  # none, another version's, or damaged: the file is fetched again


def tail_path(path: Path, base: int) -> Path:
    """Where the bytes from ``base`` on of the payload at ``path`` lie."""
    return path.with_name(f"{path.name}.{base}")


def note_path(path: Path) -> Path:
    """Where the note of the payload at ``path`` lies."""
    return path.with_name(f"{path.name}.json")


@cache
def boot_id() -> str | None:
    """Which start of the machine this is, where the system says so (Linux)."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None
