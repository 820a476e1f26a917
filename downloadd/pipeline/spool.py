"""The temporary folder: one folder a job, threads that work on it, and what jobs leave there."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import structlog

from downloadd.archive import Deflater
from downloadd.digest import Digester
from downloadd.errors import SpoolError
from downloadd.pipeline.budget import DiskBudget, MemoryBudget
from downloadd.pipeline.disk import disk_errors, remove_sync
from downloadd.pipeline.leavings import Leavings, Left, files_in, size_of
from downloadd.pipeline.notes import Note, note_path
from downloadd.tasks import Args, R, in_thread

log = structlog.get_logger(__name__)

#: Bytes that one hop to a worker thread carries; SHA-256 in two threads wins
#: most at this size (PERFORMANCE.md).
HOP = 1 << 20
#: Buffers that one ``writev`` takes (POSIX IOV_MAX; 1024 on Linux).
_IOV_MAX = 1024
#: How the names of folders begin that are being removed; no job's id does.
_GONE = ".gone-"


class Absorber:
    """Takes a file's bytes in worker threads: hashes, packs and writes them.

    One call at a time; ``close_sync`` after the last.
    """

    def __init__(
        self,
        path: Path,
        digester: Digester,
        deflater: Deflater | None,
        note: Note | None,
        make_folder: Callable[[Path], None],
    ) -> None:
        """``note``: by which a later run can go on with the file if this one does not end it."""
        self.digester = digester
        self.packed = 0
        self.path = path
        self._deflater = deflater
        self._note = note
        self._make_folder = make_folder
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

    def go_on_sync(self, size: int) -> None:
        """Write behind the first ``size`` bytes that are in the file, and hashed already."""
        with disk_errors():
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            os.ftruncate(self._file, size)
        self.packed = size

    def finish_sync(self) -> None:
        """Write what the compressor still holds."""
        if self._deflater:
            self._write([self._deflater.finish()])
        self.close_sync()

    def close_sync(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with disk_errors():  # what was written may only be known now not to have been
                os.close(file)

    def discard_sync(self) -> None:
        with suppress(SpoolError):  # what could not be written is not wanted any more
            self.close_sync()
        remove_sync(self.path, note_path(self.path))

    def _write(self, chunks: Sequence[bytes]) -> None:
        with disk_errors():
            if self._file is None:
                self._make_folder(self.path.parent)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self._file = os.open(self.path, flags, 0o600)
                if self._note is not None:
                    self._note.write_sync(self.path)
                else:  # what an earlier file's says is no longer true
                    note_path(self.path).unlink(missing_ok=True)
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
        *,
        restore: Callable[[], object] | None = None,
    ) -> None:
        """Use ``root``, and keep what is in it for the jobs that it is of.

        ``restore`` makes it again where somebody has removed it; it blocks.
        """
        self._root = root
        self._restore = restore or partial(root.mkdir, parents=True, exist_ok=True)
        self._executor = executor
        #: Bytes that jobs left behind which nobody works on, the oldest first.
        self._kept: dict[str, int] = {}
        self._evictions: set[asyncio.Future[None]] = set()
        self.disk = disk
        self.memory = memory
        disk.on_shortage = self._evict_one
        for job_id, size in _left_in(root):
            self._note_kept(job_id, size)

    def path(self, job_id: str, index: int) -> Path:
        """Where the payload of a job's file is to lie."""
        return self._root / job_id / str(index)

    def absorber(
        self,
        path: Path,
        digester: Digester,
        *,
        deflater: Deflater | None = None,
        note: Note | None = None,
    ) -> Absorber:
        """What takes a file's bytes to ``path``."""
        return Absorber(path, digester, deflater, note, self.make_folder_sync)

    def make_folder_sync(self, folder: Path) -> None:
        """Make a job's folder."""
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError:
            self._restore()
            folder.mkdir(exist_ok=True)

    def start(self, call: Callable[[*Args], R], *args: *Args) -> asyncio.Future[R]:
        """Begin a blocking call in a worker thread."""
        return asyncio.get_running_loop().run_in_executor(self._executor, call, *args)

    async def run(self, call: Callable[[*Args], R], *args: *Args) -> R:
        """Make a blocking call in a worker thread; see ``tasks.in_thread``."""
        # What is being removed, on a disk that takes its time, is about to be free.
        with self.disk.busy():
            return await in_thread(self._executor, call, *args)

    async def clear(self, job_id: str) -> None:
        """Remove whatever a job has on the disk."""
        size = self._kept.pop(job_id, None)
        try:
            await self._remove(job_id)
        finally:
            if size is not None:
                self.disk.give_up(size)

    # --- what jobs leave ---

    def kept_jobs(self) -> list[str]:
        """The jobs of which something is kept and on which nobody works here."""
        return list(self._kept)

    async def clear_kept(self, job_id: str) -> None:
        """Remove what is kept of a job; nothing where it is worked on, or unknown."""
        if job_id in self._kept:
            await self.clear(job_id)

    @asynccontextmanager
    async def keeping(self, job_id: str) -> AsyncIterator[None]:
        """Keep what a job has in its folder for its next run, until the disk is needed.

        What the job has reserved is given back inside. Nobody gets that room
        before it is known how much of it stays taken.
        """
        with self.disk.withheld():
            yield
            if size := await self.run(size_of, self._root / job_id):
                self._note_kept(job_id, size)

    async def adopt(self, job_id: str) -> Leavings:
        """Take a job's folder to work with, and what was kept in it."""
        if (size := self._kept.pop(job_id, None)) is None:
            return Leavings({}, self.run)
        try:
            found = await self.run(files_in, self._root / job_id)
        except BaseException:
            self._kept[job_id] = size
            raise
        left = {
            index: Left(tuple(sizes), self.disk.adopt(sum(sizes.values())))
            for index, sizes in found.items()
        }
        self.disk.give_up(size)
        return Leavings(left, self.run)

    def _note_kept(self, job_id: str, size: int) -> None:
        earlier = self._kept.pop(job_id, 0)
        self._kept[job_id] = size
        self.disk.keep(size)
        if earlier:
            self.disk.give_up(earlier)

    def evict_all(self) -> None:
        """Give up whatever is merely kept: the disk is fuller than it was taken to be."""
        for job_id in list(self._kept):
            self._evict(job_id)

    def _evict_one(self) -> None:
        """Give up the oldest folder for the sake of whoever waits for disk."""
        if self._kept and not self._evictions:
            self._evict(next(iter(self._kept)))

    def _evict(self, job_id: str) -> None:
        size = self._kept.pop(job_id)
        if (gone := self._put_aside(job_id)) is None:
            # Not to be removed by its name: the job's next run may be making it now.
            asyncio.get_running_loop().call_soon(self.disk.give_up, size)
            return

        def removed(eviction: asyncio.Future[None]) -> None:
            self._evictions.discard(eviction)
            self.disk.give_up(size)

        eviction = self.start(shutil.rmtree, gone, True)
        self._evictions.add(eviction)
        eviction.add_done_callback(removed)

    async def _remove(self, job_id: str) -> None:
        # Small jobs leave nothing, and need no thread.
        if (gone := self._put_aside(job_id)) is not None:
            await self.run(shutil.rmtree, gone, True)

    def _put_aside(self, job_id: str) -> Path | None:
        """Take a job's folder out of the way at once: its next run may begin meanwhile."""
        gone = self._root / f"{_GONE}{uuid.uuid4().hex}"
        try:
            (self._root / job_id).rename(gone)
        except FileNotFoundError:
            return None
        except OSError as exc:
            log.warning("spool.not_removed", jobId=job_id, error=exc.strerror)
            return None
        return gone


def _left_in(root: Path) -> list[tuple[str, int]]:
    if not root.is_dir():
        return []
    for gone in root.glob(f"{_GONE}*"):
        shutil.rmtree(gone, ignore_errors=True)
    folders = [path for path in root.iterdir() if path.is_dir()]
    folders.sort(key=lambda path: path.stat().st_mtime)
    return [(path.name, size_of(path)) for path in folders]
