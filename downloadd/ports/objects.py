"""Where archives go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from downloadd.model import Archive, Link, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectMeta(Record):
    """What is stored beside an archive's bytes."""

    content_type: str = "application/zip"
    #: The user's file name; sent as ``Content-Disposition: attachment``.
    file_name: str
    #: ASCII keys and values.
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part(Record):
    """A part that the storage has acknowledged."""

    #: From 1.
    number: int
    size: int
    #: What the storage calls these bytes; opaque.
    etag: str
    #: The CRC-32 that the storage itself verified; None where it does not. A
    #: checkpoint keeps it: some storages ask for it again when the object is made.
    crc32: int | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored(Record):
    """An object as the storage describes it."""

    size: int
    etag: str
    #: Empty where the storage keeps none.
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(Record):
    """An object, or (by its id) an unfinished upload, that a listing has come upon."""

    key: str
    upload_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Twin(Record):
    """Where the same storage has bytes already, in an object that is no archive of ours."""

    key: str
    #: As the storage names this version of the object, without quotes.
    etag: str
    #: Where they begin in the object.
    offset: int = 0


class PartBody(Protocol):
    """The bytes of one part, as often as they are asked for, the same each time."""

    #: Where the part begins in the object.
    offset: int
    size: int
    #: CRC-32 (the ZIP polynomial, ISO-HDLC) of the part's bytes.
    crc32: int

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the part's bytes from its beginning, at most 1 MiB at once."""
        ...


class ObjectBody(Protocol):
    """An object that is being read; the bytes once, by ``chunks``."""

    #: Where the bytes begin: the offset asked for, or 0 where the whole comes.
    offset: int
    #: Bytes of the whole object.
    size: int
    #: As the storage names this version of it, without quotes; empty: it does not.
    etag: str
    #: Seconds since the epoch.
    modified: float | None
    #: Media type without parameters, lower case; None where the storage keeps none.
    content_type: str | None
    #: Lower case; None for identity. Bytes are never decoded.
    content_encoding: str | None

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they come.

        ``StorageUnavailable`` where they end too soon; ``ObjectChanged`` where
        somebody is seen to have written to the object meanwhile.
        """
        ...


class ObjectStore(Protocol):
    """Where archives go. Transient trouble is retried inside each call.

    Every method raises ``StorageUnavailable`` when its own retries are used
    up and ``StorageRefused`` when trying again makes no sense.
    """

    #: The fewest bytes that any part but the last may have.
    min_part_size: int
    #: Whether others may keep objects in the same place: ours lie under a prefix then.
    shared: bool

    async def put(self, key: str, body: PartBody, meta: ObjectMeta) -> Stored:
        """Store a whole object in one request; ``StorageCorrupt`` if it arrived otherwise."""
        ...

    async def begin(self, key: str, meta: ObjectMeta) -> str:
        """Begin a multipart upload and return its id."""
        ...

    async def upload_part(self, key: str, upload_id: str, number: int, body: PartBody) -> Part:
        """Store one part; on return it is durable. ``UploadMissing``, ``StorageCorrupt``."""
        ...

    async def copy_part(
        self, key: str, upload_id: str, number: int, body: PartBody, twin: Twin
    ) -> Part | None:
        """As ``upload_part``, but have the storage take the bytes from where it has them.

        None where it does not, or its bytes cannot be shown to be those of
        ``body``: they are to be uploaded then. ``UploadMissing``.
        """
        ...

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        """The parts stored so far, by number. ``UploadMissing``."""
        ...

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
    ) -> Stored:
        """Make the object of its parts, look at it, compare size and checksum.

        ``StorageCorrupt`` where they differ. Completing an upload that was
        completed before (the answer was lost) succeeds if the object is right.
        """
        ...

    async def abort(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts. One that is gone already is no error."""
        ...

    async def head(self, key: str) -> Stored | None:
        """Describe an object; None where there is none."""
        ...

    def read(self, key: str) -> AsyncIterator[bytes]:
        """Yield an object's bytes. ``ObjectMissing``."""
        ...

    def open(self, key: str, *, offset: int = 0) -> AbstractAsyncContextManager[ObjectBody]:
        """Read an object from an offset on, a single time. ``ObjectMissing``.

        Where it has no byte there: ``ObjectChanged``, or all of it comes.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove an object. One that is gone already is no error."""
        ...

    async def belongs_to(self, namespace: str) -> bool:
        """Whether what lies here under no prefix is this installation's; nobody's becomes its."""
        ...

    def find_uploads(self, prefix: str) -> AsyncIterator[Found]:
        """Yield the unfinished uploads of keys that begin with ``prefix``, page by page.

        What begins or ends meanwhile may be among them or not; one may come twice.
        """
        ...

    def find_objects(self, prefix: str) -> AsyncIterator[Found]:
        """Yield the objects whose keys begin with ``prefix``, page by page.

        As uploads. A key may be given whose object is gone, where ``delete``
        has something left to remove.
        """
        ...

    async def sign(self, archive: Archive) -> Link:
        """A link that works for whoever holds it, for the configured time."""
        ...

    async def check(self) -> None:
        """Return when the storage answers and would take an upload."""
        ...
