"""Objects that are read from wherever a reader left off (``ports.ObjectStore.open``)."""

from __future__ import annotations

import contextlib
import email.utils
import os
import re
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp

from downloadd.errors import ObjectChanged, ObjectMissing, StorageUnavailable
from downloadd.objects.faults import translated
from downloadd.objects.files import stored
from downloadd.objects.transfer import DataPath
from downloadd.objects.writers import Descriptor

#: Bytes read at once from a file.
_CHUNK = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+)")  # RFC 9110 §14.4

#: Runs a blocking call in a thread of the store's, and translates what it raises.
Runner = Callable[..., Coroutine[Any, Any, Any]]


class S3Body:
    """``ports.ObjectBody`` over an answer to GetObject."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        headers = response.headers
        part = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        self.offset = int(part[1]) if part else 0
        self.size = int(part[2]) if part else int(headers.get("Content-Length", 0))
        self.etag = headers.get("ETag", "").strip('"')
        self.modified = _seconds(headers.get("Last-Modified"))
        media_type = headers.get("Content-Type", "").partition(";")[0]
        self.content_type: str | None = media_type.strip().lower() or None
        encoding = headers.get("Content-Encoding", "").strip().lower()
        # The other says how it was uploaded, and some servers keep that.
        plain = encoding in ("", "identity", "aws-chunked")
        self.content_encoding: str | None = None if plain else encoding
        self._content = response.content

    async def chunks(self) -> AsyncIterator[bytes]:
        position = self.offset
        with translated("GetObject"):
            async for chunk in self._content.iter_any():
                position += len(chunk)
                yield chunk
        if position != self.size:
            raise StorageUnavailable("S3 stopped before the end of an object.")


@contextlib.asynccontextmanager
async def open_s3(data: DataPath, key: str, offset: int) -> AsyncIterator[S3Body]:
    """Get an object from an offset on."""
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    async with data.open("GetObject", "GET", key, headers=headers) as response:
        yield S3Body(response)


class FileBody:
    """``ports.ObjectBody`` over a file."""

    content_type: str | None = None
    content_encoding: str | None = None

    def __init__(self, run: Runner, file: Descriptor, found: os.stat_result, offset: int) -> None:
        self.offset = offset
        self.size = found.st_size
        # As that of an object that is served: it changes whenever the file is written.
        self.etag = stored(found).etag
        self.modified: float | None = found.st_mtime
        self._run = run
        self._file = file

    async def chunks(self) -> AsyncIterator[bytes]:
        position = self.offset
        while chunk := await self._run(self._file.read, _CHUNK, position):
            position += len(chunk)
            yield chunk
        now = await self._run(self._file.stat)
        if position != self.size or stored(now).etag != self.etag:
            raise ObjectChanged("A stored file was written to while it was read.")


@contextlib.asynccontextmanager
async def open_file(run: Runner, path: Path, key: str, offset: int) -> AsyncIterator[FileBody]:
    """Open a file of the store's folder at an offset."""
    file = Descriptor(path)
    try:
        found = await run(_stat, file, key)
        # Of what has become shorter there is nothing to go on with.
        yield FileBody(run, file, found, offset if offset < found.st_size else 0)
    finally:
        await run(file.close)


def _stat(file: Descriptor, key: str) -> os.stat_result:
    try:
        # Not to wait for ever where somebody has put a pipe.
        found = os.fstat(file.open(os.O_RDONLY | os.O_NONBLOCK))
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ObjectMissing(f"There is no {key!r}.") from exc
    if not stat.S_ISREG(found.st_mode):
        raise ObjectMissing(f"There is no {key!r}.")
    return found


def _seconds(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None
