"""Objects of S3 that are read from wherever a reader left off (``ports.ObjectStore.open``)."""

from __future__ import annotations

import contextlib
import email.utils
import re
from collections.abc import AsyncIterator

import aiohttp

from downloadd.errors import StorageUnavailable
from downloadd.objects.faults import translated
from downloadd.objects.transfer import DataPath

_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+)")  # RFC 9110 §14.4


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


def _seconds(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None
