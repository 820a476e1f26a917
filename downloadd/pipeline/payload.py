"""Payloads: the packed bytes of files between their source and the storage.

Small ones wait in memory while there is room, others in one temporary file
each. Functions that end in ``_sync`` block and belong in a worker thread.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog
from isal import isal_zlib

from downloadd.errors import SpoolError
from downloadd.pipeline.budget import MemoryBudget, Reservation
from downloadd.pipeline.disk import disk_errors, remove_sync
from downloadd.pipeline.notes import Note, Tail, note_path, tail_path
from downloadd.pipeline.spool import HOP, Spool
from downloadd.ports import Twin

log = structlog.get_logger(__name__)


class Payload:
    """Packed bytes of one file, from ``base`` on (what lies before is stored elsewhere)."""

    base = 0
    #: Bytes of the whole payload, ``base`` included.
    size: int
    #: Where the storage has the same bytes, from the first on.
    twin: Twin | None = None

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

    async def leave(self, spool: Spool, path: Path) -> None:
        """Discard it here, but leave it at ``path`` for the job's next run, if the disk lets us."""
        raise NotImplementedError


class MemoryPayload(Payload):
    def __init__(
        self, data: bytes, memory: MemoryBudget | None = None, note: Note | None = None
    ) -> None:
        """Hold ``data``, whose size was taken from ``memory`` (None: not counted).

        Without a ``note`` it can be made again, and is not left to anybody.
        """
        self.size = len(data)
        self._data = data
        self._memory = memory
        self._note = note

    @property
    def in_memory(self) -> bool:
        return True

    def read_sync(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    async def discard(self) -> None:
        if self._memory is not None:
            self._memory.give_back(len(self._data))
        self._memory, self._data, self._note = None, b"", None

    async def leave(self, spool: Spool, path: Path) -> None:
        try:
            if self._note is not None:
                await spool.run(self._write_sync, spool, path, self._note)
        except SpoolError as exc:  # it is fetched again, then
            log.warning("payload.not_left", error=exc.message)
        finally:
            await self.discard()

    def _write_sync(self, spool: Spool, path: Path, note: Note) -> None:
        with disk_errors():
            spool.make_folder_sync(path.parent)
            path.write_bytes(self._data)
        note.write_sync(path)


class FilePayload(Payload):
    def __init__(self, spool: Spool, path: Path, note: Note, reservation: Reservation) -> None:
        """Take over the file at ``path``, of which ``note`` tells that it is whole."""
        if note.whole is None:
            raise AssertionError("the file has not been fetched to its end")
        self._spool = spool
        self._path = path
        self._note = note
        self._file = note.file(path)
        self._reservation = reservation
        self.size = note.whole.packed_size
        self.base = note.tail.base if note.tail else 0

    def read_sync(self, offset: int, length: int) -> bytes:
        with disk_errors(), self._file.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset - self.base)
        if len(data) != length:
            raise self._cut_short()
        return data

    def read_into_sync(self, offset: int, buffer: memoryview) -> None:
        with disk_errors(), self._file.open("rb", buffering=0) as file:
            read = os.preadv(file.fileno(), [buffer], offset - self.base)
        if read != len(buffer):
            raise self._cut_short()

    def _cut_short(self) -> SpoolError:
        return SpoolError(f"The temporary file {self._file.name} has been cut short.")

    async def trim(self, offset: int) -> None:
        """Keep only the bytes from ``offset`` on, in a small file of their own.

        An entry's tail waits for the next part; its file may be gigabytes.
        """
        if offset <= self.base:
            return
        await self._spool.run(self._trim_sync, offset)
        self._reservation.shrink(self.size - offset)

    def _trim_sync(self, offset: int) -> None:
        # Not at once: the last parts of the largest archives have gigabytes.
        file, whole, crc32 = tail_path(self._path, offset), self._file, 0
        with disk_errors(), file.open("wb") as copy:
            for start in range(offset, self.size, HOP):
                data = self.read_sync(start, min(HOP, self.size - start))
                crc32 = isal_zlib.crc32(data, crc32)
                copy.write(data)
        note = self._note.evolve(tail=Tail(base=offset, crc32=crc32))
        note.write_sync(self._path)
        self._note, self._file, self.base = note, file, offset
        remove_sync(whole)

    async def discard(self) -> None:
        try:
            await self._spool.run(remove_sync, self._file, note_path(self._path))
        finally:
            self._reservation.release()

    async def leave(self, spool: Spool, path: Path) -> None:
        self._reservation.release()
