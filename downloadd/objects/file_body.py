"""Stored files that are read from wherever a reader left off (``ports.ObjectStore.open``)."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from downloadd.errors import ObjectChanged, ObjectMissing
from downloadd.objects.files import stored
from downloadd.objects.writers import Descriptor

#: Bytes read at once from a file.
_CHUNK = 1024 * 1024

#: Runs a blocking call in a thread of the store's, and translates what it raises.
Runner = Callable[..., Coroutine[Any, Any, Any]]


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
