"""Archives in a folder, and links to them that this server itself answers.

Bytes are written by threads of the store's own, so that a slow disk holds up
nobody else's. On return a part or an object is on disk (fsync). Each body's
size and CRC-32 are compared before its last chunk is written; parts are
compared with the journal when an upload is completed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from downloadd.errors import ObjectMissing, StorageRefused, StorageUnavailable
from downloadd.model import Archive, Link, Record
from downloadd.objects.bodies import verified
from downloadd.objects.file_body import open_file
from downloadd.objects.files import Folder
from downloadd.objects.headers import attachment
from downloadd.objects.links import LinkSigner
from downloadd.objects.writers import Descriptor, Draft, PartWriter
from downloadd.ports import Found, ObjectBody, ObjectMeta, Part, PartBody, Stored, Twin
from downloadd.tasks import Args, R, in_thread

#: Only archives are stored here.
CONTENT_TYPE = "application/zip"
_CHUNK = 1024 * 1024
#: Writes and fsyncs under way at once.
_THREADS = 16
#: With less room ``check`` fails: not even one part would fit.
_MIN_FREE = 64 * 1024 * 1024

#: Found files that one hop to a thread carries.
_PAGE = 500

T = TypeVar("T")

#: What trying again does not change.
_REFUSED = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENAMETOOLONG,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EINVAL,
    }
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalFile(Record):
    """What a good link leads to, for whoever serves it."""

    path: Path
    file_name: str
    size: int
    #: Without quotes; the one that aiohttp's ``FileResponse`` would give.
    etag: str
    content_type: str
    #: A whole ``Content-Disposition``.
    disposition: str


class LocalStore:
    """``ports.ObjectStore`` over a folder; made by ``open_local_store``."""

    min_part_size = 1
    shared = False

    def __init__(
        self,
        folder: Folder,
        threads: ThreadPoolExecutor,
        *,
        base_url: str,
        secret: bytes,
        presign_ttl: int,
    ) -> None:
        self._folder = folder
        self._threads = threads
        self._base_url = base_url
        self._links = LinkSigner(secret)
        self._presign_ttl = presign_ttl

    async def _run(self, call: Callable[[*Args], R], *args: *Args) -> R:
        with _translated(self._folder.root):
            return await in_thread(self._threads, call, *args)

    async def _write(self, body: PartBody, write: Callable[[Sequence[bytes]], None]) -> list[bytes]:
        """Write a body but for its last bytes, at most ``_CHUNK``, and return those.

        So a small object takes one hop in all.
        """
        pending: list[bytes] = []
        size = 0
        async with contextlib.aclosing(verified(body)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if pending and size + len(chunk) > _CHUNK:
                    await self._run(write, pending)
                    pending, size = [], 0
                pending.append(chunk)
                size += len(chunk)
        return pending

    async def put(self, key: str, body: PartBody, meta: ObjectMeta) -> Stored:
        self._folder.object_path(key)
        draft = Draft(self._folder)
        try:
            rest = await self._write(body, draft.write)
            await self._run(draft.publish, rest, key)
            return draft.finish()
        except BaseException:
            await self._run(draft.discard)
            raise

    async def begin(self, key: str, meta: ObjectMeta) -> str:
        return await self._run(self._folder.begin, key)

    async def upload_part(self, key: str, upload_id: str, number: int, body: PartBody) -> Part:
        writer = PartWriter(self._folder, upload_id, number, body.offset)
        try:
            rest = await self._write(body, writer.write)
            return await self._run(writer.finish, rest, body.crc32)
        finally:
            await self._run(writer.close)

    async def copy_part(
        self, key: str, upload_id: str, number: int, body: PartBody, twin: Twin
    ) -> Part | None:
        return None  # between files of one disk a copy saves nothing

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        return await self._run(self._folder.list_parts, key, upload_id)

    async def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> Stored:
        return await self._run(self._folder.complete, key, upload_id, parts)

    async def abort(self, key: str, upload_id: str) -> None:
        await self._run(self._folder.abort, upload_id)

    async def head(self, key: str) -> Stored | None:
        try:
            return await self._run(self._folder.describe, key)
        except ObjectMissing:
            return None

    async def read(self, key: str) -> AsyncIterator[bytes]:
        file = Descriptor(self._folder.object_path(key))
        offset = 0
        try:
            while chunk := await self._run(_read, file, key, offset):
                offset += len(chunk)
                yield chunk
        finally:
            await self._run(file.close)

    def open(
        self, key: str, *, offset: int = 0
    ) -> contextlib.AbstractAsyncContextManager[ObjectBody]:
        return open_file(self._run, self._folder.object_path(key), key, offset)

    async def delete(self, key: str) -> None:
        await self._run(self._folder.delete, key)

    async def belongs_to(self, namespace: str) -> bool:
        return await self._run(self._folder.belongs_to, namespace)

    def find_uploads(self, prefix: str) -> AsyncIterator[Found]:
        return self._listed(self._folder.find_uploads(prefix))

    def find_objects(self, prefix: str) -> AsyncIterator[Found]:
        return self._listed(self._folder.find_objects(prefix))

    async def _listed(self, found: Iterator[T]) -> AsyncIterator[T]:
        while page := await self._run(_page, found):
            for one in page:
                yield one

    async def sign(self, archive: Archive) -> Link:
        expires = int(time.time()) + self._presign_ttl
        url = self._links.url(self._base_url, archive.key, expires, archive.file_name)
        return Link(url=url, expires_at=expires)

    async def resolve(self, key: str, expires: str, name: str, signature: str) -> LocalFile:
        """Return the file that a link leads to; arguments as they stand in it, decoded.

        ``LinkInvalid`` where it is forged or past its time, ``ObjectMissing``
        where the file is gone.
        """
        self._links.verify(key, expires, name, signature, time.time())
        return await self._run(self._local_file, key, name)

    def _local_file(self, key: str, name: str) -> LocalFile:
        stored = self._folder.describe(key)
        return LocalFile(
            path=self._folder.object_path(key),
            file_name=name,
            size=stored.size,
            etag=stored.etag,
            content_type=CONTENT_TYPE,
            disposition=attachment(name),
        )

    async def check(self) -> None:
        if await self._run(self._folder.probe) < _MIN_FREE:
            raise StorageUnavailable(f"The disk of {self._folder.root} is full. Make room on it.")


def _page(found: Iterator[T]) -> list[T]:
    return list(itertools.islice(found, _PAGE))


def _read(file: Descriptor, key: str, offset: int) -> bytes:
    try:
        return file.read(_CHUNK, offset)
    except FileNotFoundError as exc:
        raise ObjectMissing(f"There is no {key!r}.") from exc


@contextlib.contextmanager
def _translated(root: Path) -> Iterator[None]:
    """Turn what the operating system says into downloadd's errors."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise StorageUnavailable(f"The disk of {root} is full. Make room on it.") from exc
        if exc.errno in _REFUSED:
            raise StorageRefused(
                f"The folder {root} cannot be used: {exc.strerror}. Check its owner and mode."
            ) from exc
        raise StorageUnavailable(f"The folder {root} failed: {exc.strerror}.") from exc


@contextlib.asynccontextmanager
async def open_local_store(
    folder: Path,
    *,
    base_url: str,
    secret: bytes,
    presign_ttl: int = 3600,
) -> AsyncIterator[LocalStore]:
    """Open a folder, making it if need be.

    Links begin with ``base_url``, which has no slash at its end, and are
    signed with ``secret`` (``links.load_secret``) for ``presign_ttl`` seconds.
    Raises ``StorageRefused`` or ``StorageUnavailable``.
    """
    place = Folder(folder)
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="objects")
    try:
        store = LocalStore(
            place,
            threads,
            base_url=base_url,
            secret=secret,
            presign_ttl=presign_ttl,
        )
        with _translated(folder):
            await asyncio.get_running_loop().run_in_executor(threads, place.prepare)
        yield store
    finally:
        threads.shutdown(wait=True)
        place.close()
