"""Files that lie in the storage already: ``ports.SourceReader`` over an ``ObjectStore``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import structlog

from downloadd.errors import (
    ObjectChanged,
    ObjectMissing,
    SourceChanged,
    SourceMissing,
    SourceRefused,
    StorageRefused,
)
from downloadd.model import Source
from downloadd.ports import (
    ObjectBody,
    ObjectStore,
    SourceBody,
    SourceDescriber,
    SourceFacts,
    SourceReader,
)

log = structlog.get_logger(__name__)

_CHANGED = "The stored file has changed since it was begun."


class StoredBody:
    """``ports.SourceBody`` over an object."""

    file_name: str | None = None
    digests: Mapping[str, str] = {}

    def __init__(self, body: ObjectBody) -> None:
        self.offset = body.offset
        self.size: int | None = body.size
        self.validator: str | None = f'"{body.etag}"' if body.etag else None
        self.content_type = body.content_type
        self.content_encoding = body.content_encoding
        self.modified = body.modified
        self._body = body

    def chunks(self) -> AsyncIterator[bytes]:
        return self._body.chunks()


class StoredSource:
    """Reads sources that have a key.

    Trouble with the storage itself stays what it is: the job is put back for
    it, as when its archive cannot be stored.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    @asynccontextmanager
    async def open(
        self, source: Source, *, offset: int = 0, validator: str | None = None
    ) -> AsyncIterator[StoredBody]:
        """As ``ports.SourceReader``."""
        try:
            async with self._objects.open(source.key or "", offset=offset) as found:
                body = StoredBody(found)
                if offset and validator not in (None, body.validator):
                    raise SourceChanged(_CHANGED)
                yield body
        except ObjectMissing as exc:
            raise _missing(source) from exc
        except ObjectChanged as exc:
            raise SourceChanged(_CHANGED) from exc
        except StorageRefused as exc:
            raise _refused(source, exc) from exc

    async def describe(self, source: Source) -> SourceFacts:
        """As ``ports.SourceDescriber``."""
        try:
            found = await self._objects.head(source.key or "")
        except StorageRefused as exc:
            raise _refused(source, exc) from exc
        if found is None:
            raise _missing(source)
        return SourceFacts(size=found.size)


def _missing(source: Source) -> SourceMissing:
    return SourceMissing(f"There is no stored file {source.file_id}.")


def _refused(source: Source, exc: StorageRefused) -> SourceRefused:
    # So does a bucket that may not be listed say of what is not there.
    log.warning("source.storage_refused", fileId=source.file_id, error=exc.message)
    return SourceRefused(f"The stored file {source.file_id} may not be read.")


class Describers:
    """Describes sources of both kinds."""

    def __init__(self, remote: SourceDescriber, stored: SourceDescriber) -> None:
        self._remote = remote
        self._stored = stored

    async def describe(self, source: Source) -> SourceFacts:
        """As ``ports.SourceDescriber``."""
        describer = self._remote if source.key is None else self._stored
        return await describer.describe(source)


class Sources:
    """Reads sources of both kinds: objects, and what others serve."""

    def __init__(self, remote: SourceReader, stored: SourceReader) -> None:
        self._remote = remote
        self._stored = stored

    def open(
        self, source: Source, *, offset: int = 0, validator: str | None = None
    ) -> AbstractAsyncContextManager[SourceBody]:
        """As ``ports.SourceReader``."""
        reader = self._remote if source.key is None else self._stored
        return reader.open(source, offset=offset, validator=validator)
