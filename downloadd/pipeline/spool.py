"""Payloads: the packed bytes of files between their source and the storage.

Small ones wait in memory while there is room, others in one temporary file
each. Functions that end in ``_sync`` block and belong in a worker thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from downloadd.archive import Deflater
from downloadd.digest import Digester
from downloadd.errors import SpoolError
from downloadd.pipeline.budget import DiskBudget, MemoryBudget, Reservation
from downloadd.tasks import Args, R, in_thread

#: Bytes that one hop to a worker thread carries; SHA-256 in two threads wins
#: most at this size (PERFORMANCE.md).
HOP = 1 << 20
#: Buffers that one ``writev`` takes (POSIX IOV_MAX; 1024 on Linux).
_IOV_MAX = 1024


class Payload:
    """Packed bytes of one file, from ``base`` on (what lies before is stored elsewhere)."""

    base = 0
    #: Bytes of the whole payload, ``base`` included.
    size: int

    def read_sync(self, offset: int, length: int) -> bytes:
        """Return exactly these bytes. ``SpoolError`` where they are gone."""
        raise NotImplementedError

    def read_into_sync(self, offset: int, buffer: memoryview) -> None:
        """The same into a buffer, as many as it holds: costs no memory of its own."""
        buffer[:] = self.read_sync(offset, len(buffer))

    @property
    def in_memory(self) -> bool:
        return False

    async def trim(self, offset: int) -> None:
        """Forget the bytes before ``offset``."""

    async def discard(self) -> None:
        """Forget all bytes and give back their room; a second time does nothing."""
        raise NotImplementedError


class MemoryPayload(Payload):
    def __init__(self, data: bytes, memory: MemoryBudget | None) -> None:
        """Hold ``data``, whose size was taken from ``memory`` (None: not counted)."""
        self.size = len(data)
        self._data = data
        self._memory = memory

    @property
    def in_memory(self) -> bool:
        return True

    def read_sync(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    async def discard(self) -> None:
        if self._memory is not None:
            self._memory.give_back(len(self._data))
        self._memory, self._data = None, b""


class FilePayload(Payload):
    def __init__(self, spool: Spool, path: Path, size: int, reservation: Reservation) -> None:
        self._spool = spool
        self._path = path
        self.size = size
        self._reservation = reservation

    def read_sync(self, offset: int, length: int) -> bytes:
        with disk_errors(), self._path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset - self.base)
        if len(data) != length:
            raise self._cut_short()
        return data

    def read_into_sync(self, offset: int, buffer: memoryview) -> None:
        with disk_errors(), self._path.open("rb", buffering=0) as file:
            read = os.preadv(file.fileno(), [buffer], offset - self.base)
        if read != len(buffer):
            raise self._cut_short()

    def _cut_short(self) -> SpoolError:
        return SpoolError(f"The temporary file {self._path.name} has been cut short.")

    async def trim(self, offset: int) -> None:
        """Keep only the bytes from ``offset`` on, in a small file of their own.

        An entry's tail waits for the next part; its file may be gigabytes.
        """
        if offset <= self.base:
            return
        await self._spool.run(self._trim_sync, offset)
        self._reservation.shrink(self.size - offset)

    def _trim_sync(self, offset: int) -> None:
        tail = self.read_sync(offset, self.size - offset)
        path = self._path.with_name(f"{self._path.name}.tail")
        with disk_errors():
            path.write_bytes(tail)
            path.replace(self._path)
        self.base = offset

    async def discard(self) -> None:
        try:
            await self._spool.run(self._path.unlink, True)
        finally:
            self._reservation.release()


class Absorber:
    """Takes a file's bytes in worker threads: hashes, packs and writes them.

    One call at a time; ``close_sync`` after the last.
    """

    def __init__(self, path: Path, digester: Digester, deflater: Deflater | None) -> None:
        self.digester = digester
        self.packed = 0
        self.path = path
        self._deflater = deflater
        self._file: int | None = None

    @property
    def deflated(self) -> bool:
        return self._deflater is not None

    def absorb_sync(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            self.digester.update(chunk)
        if self._deflater is None:
            self._write(chunks)
        else:
            self._write([self._deflater.update(chunk) for chunk in chunks])

    def finish_sync(self) -> None:
        """Write what the compressor still holds."""
        if self._deflater:
            self._write([self._deflater.finish()])
        self.close_sync()

    def close_sync(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def discard_sync(self) -> None:
        self.close_sync()
        self.path.unlink(missing_ok=True)

    def _write(self, chunks: Sequence[bytes]) -> None:
        with disk_errors():
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self._file = os.open(self.path, flags, 0o600)
            # Not joined: a copy of all that comes is what this saves.
            for start in range(0, len(chunks), _IOV_MAX):
                group = chunks[start : start + _IOV_MAX]
                size = sum(map(len, group))
                written = os.writev(self._file, group)
                if written < size:  # the disk is nearly full; say so with its own error
                    self._write_rest(b"".join(group)[written:])
                self.packed += size

    def _write_rest(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._file is not None:
            view = view[os.write(self._file, view) :]


class Spool:
    """The temporary folder with one folder a job, and the threads that work on it."""

    def __init__(
        self,
        root: Path,
        executor: ThreadPoolExecutor,
        disk: DiskBudget,
        memory: MemoryBudget,
    ) -> None:
        self._root = root
        self._executor = executor
        #: Jobs that have a folder, or had one and were not cleared.
        self._used: set[str] = set()
        self.disk = disk
        self.memory = memory

    def path(self, job_id: str, index: int) -> Path:
        """Where the payload of a job's file is to lie."""
        self._used.add(job_id)
        return self._root / job_id / str(index)

    def start(self, call: Callable[[*Args], R], *args: *Args) -> asyncio.Future[R]:
        """Begin a blocking call in a worker thread."""
        return asyncio.get_running_loop().run_in_executor(self._executor, call, *args)

    async def run(self, call: Callable[[*Args], R], *args: *Args) -> R:
        """Make a blocking call in a worker thread; see ``tasks.in_thread``."""
        return await in_thread(self._executor, call, *args)

    async def job_ids(self) -> list[str]:
        """The folders that are there, in the names of their jobs. ``SpoolError``."""
        found = await self.run(self._folders)
        self._used.update(found)
        return found

    def _folders(self) -> list[str]:
        with disk_errors():
            if not self._root.exists():
                return []
            return [path.name for path in self._root.iterdir() if path.is_dir()]

    async def clear(self, job_id: str) -> None:
        """Remove what is left of a job."""
        if job_id in self._used:  # small jobs leave nothing, and need no thread
            await self.run(shutil.rmtree, self._root / job_id, True)
            self._used.discard(job_id)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Translate the operating system's words about the temporary disk."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpoolError("The server's temporary disk is full; try again later.") from exc
        raise SpoolError(f"The server's temporary folder failed: {exc.strerror}.") from exc
