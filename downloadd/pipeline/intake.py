"""One file's bytes from their arrival to a verified payload.

They are hashed, packed and written in worker threads while more arrive; small
files stay in memory. What an earlier run of the job has left of the file, on
the temporary disk or in the storage, need not arrive again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from downloadd.archive import Deflater, Method, compressible
from downloadd.digest import Digester, verify
from downloadd.errors import FileError, FormatMismatch, SourceChanged, SpoolError
from downloadd.formats import mismatch
from downloadd.model import FileEntry
from downloadd.pipeline import salvage
from downloadd.pipeline.disk import remove_sync
from downloadd.pipeline.fetched import Fetched, Packed
from downloadd.pipeline.leavings import Left
from downloadd.pipeline.notes import Note, Origin, Tail, Whole, note_path, tail_path
from downloadd.pipeline.payload import FilePayload, MemoryPayload
from downloadd.pipeline.room import STEP, Room
from downloadd.pipeline.services import FetchServices
from downloadd.pipeline.spool import HOP, Absorber
from downloadd.tasks import settled, to_its_end

log = structlog.get_logger(__name__)

#: Files up to this size never touch the disk while there is memory for them,
#: and are hashed where they stand: a hop to a thread would cost more.
SMALL = 64 << 10
#: So many pieces go to the disk, however small: each takes what forty bytes more do.
MANY_CHUNKS = 4096
#: What the format check looks at.
_HEAD = 4 << 10


class Intake:
    """Takes in a file. ``finish`` at its end; ``close`` or ``leave`` if it has none."""

    def __init__(
        self,
        services: FetchServices,
        path: Path,
        entry: FileEntry,
        *,
        name: str,
        compress: bool,
        packed: Packed | None,
        left: Left | None,
    ) -> None:
        """``path`` is where the payload may lie, ``name`` the one planned for the file.

        ``packed``: it was packed by an earlier run. ``left``: what that left on the disk.
        """
        self._spool = services.spool
        self._format_check = services.policy.format_check
        self._path = path
        self._entry = entry
        self._name = name
        self._compress = compress
        self._packed = packed
        self._left = left
        self.room = Room(
            services.spool.disk, services.clock, left.reservation if left is not None else None
        )
        self._reset()

    def _reset(self) -> None:
        #: Bytes of the file that are here, or stored already.
        self.received = 0
        #: What the first answer said of the file.
        self.origin = Origin()
        #: The bytes are of more than one answer.
        self.stitched = False
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._absorber: Absorber | None = None
        self._hop: asyncio.Future[None] | None = None
        #: Where the bytes begin that are fetched; those before are stored already.
        self._base = 0

    # --- taking up what is there ---

    async def salvage(self) -> Fetched | None:
        """Take up what an earlier run left on the disk; the file, where that is all of it."""
        if self._left is None:
            return None
        try:
            with self.room.moving():
                return await self._salvaged(self._left)
        except (SpoolError, FileError) as exc:
            log.warning("fetch.not_salvaged", fileId=self._entry.label, error=exc.message)
            await self.close()
            return None

    async def _salvaged(self, left: Left) -> Fetched | None:
        stored = self._packed.stored if self._packed is not None else 0
        found = await self._spool.run(salvage.find_sync, self._path, stored)
        if found is None:
            await self.close()
            return None
        note, size = found
        # Killed while it changed one for another, that may have left more than there is to be.
        of_use = {note.file(self._path), note_path(self._path)}
        if spare := set(left.paths) - of_use:
            await self._spool.run(remove_sync, *spare)
        if note.whole is not None:
            return await self._salvaged_whole(note, note.whole, size)
        await self.room.take(note.origin.size or size + STEP)
        self.origin, self.stitched = note.origin, True
        self._absorber = self._make_absorber(deflate=note.deflated)
        self.received = await self._spool.run(salvage.go_on_sync, self._path, note, self._absorber)
        log.info("fetch.salvaged", fileId=self._entry.label, bytes=self.received)
        return await self.finish(1) if self.received == self.origin.size else None

    async def _salvaged_whole(self, note: Note, whole: Whole, size: int) -> Fetched:
        if not await self._spool.run(salvage.intact_sync, self._path, note, whole):
            raise SpoolError("A temporary file of the server is damaged.")
        await self.room.take(size)
        self.received = whole.size
        log.info("fetch.salvaged", fileId=self._entry.label, bytes=whole.size)
        return self._handed_over(note)

    def skip_stored(self) -> None:
        """Be content with what is not stored yet, if the source says that it is the same file."""
        packed = self._packed
        if packed is None or packed.validator is None or packed.entry.method is not Method.STORED:
            return
        self.received = self._base = packed.stored
        self.origin = Origin(size=packed.entry.size, validator=packed.validator)

    # --- as it comes ---

    async def take(self, chunk: bytes) -> None:
        """Take the next bytes; waits for the disk."""
        self.received += len(chunk)
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        self.room.settle(self.received - self._base)
        if self._absorber is None:
            full = self.received > SMALL
        else:
            full = self._waiting_bytes >= HOP or len(self._waiting) >= MANY_CHUNKS
        if full:
            await self._absorb()

    async def _absorb(self) -> None:
        """Send what has come to a thread, one hop at a time, while more arrives."""
        # Not by what the caller says: that may be anything.
        await self.room.take(self.origin.size - self._base if self.origin.size else STEP)
        await self.room.grow(self.received - self._base)
        await self._landed()
        if self._absorber is None:
            self._absorber = self._new_absorber()
        chunks, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._hop = self._spool.start(self._absorber.absorb_sync, chunks)

    async def _landed(self) -> None:
        if self._hop is not None:
            hop, self._hop = self._hop, None
            await to_its_end(hop)

    def _new_absorber(self) -> Absorber:
        if self._base:
            return self._spool.absorber(tail_path(self._path, self._base), Digester())
        head = b"".join(self._waiting)[:SMALL]
        deflate = self._compress and compressible(head)
        self._check_format(head[:_HEAD])
        return self._make_absorber(deflate=deflate)

    def _make_absorber(self, *, deflate: bool) -> Absorber:
        # Without a validator nobody could go on with it.
        note = Note(origin=self.origin, deflated=deflate) if self.origin.validator else None
        deflater = Deflater() if deflate else None
        return self._spool.absorber(self._path, self._new_digester(), deflater=deflater, note=note)

    def _new_digester(self) -> Digester:
        return Digester(md5=self._entry.source.md5 is not None or "md5" in self.origin.digests)

    def _check_format(self, head: bytes) -> None:
        if self._format_check == "off":
            return
        name = self._entry.source.name or self.origin.file_name or self._name
        complaint = mismatch(name, self.origin.content_type, head)
        if complaint is None:
            return
        if self._format_check == "reject":
            raise FormatMismatch(complaint)
        log.warning("fetch.format", fileId=self._entry.label, complaint=complaint)

    # --- the end ---

    async def finish(self, attempts: int) -> Fetched:
        """Verify and hand over what has come, after so many requests.

        Raises ``VerificationError``, ``SourceChanged``, ``SpoolError``.
        """
        if self._base and self._packed is not None:
            return await self._finish_rest(self._packed, attempts)
        if self._absorber is None:
            return await self._finish_small(attempts)
        absorber = await self._absorbed(self._absorber)
        self._verify(absorber.digester)
        note = self._note(absorber.digester, absorber.packed, absorber.deflated, attempts)
        return await self._spooled(note)

    async def _absorbed(self, absorber: Absorber) -> Absorber:
        """Write the last of what has come."""
        await self._landed()
        chunks, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if chunks:
            await self._spool.run(absorber.absorb_sync, chunks)
        await self._spool.run(absorber.finish_sync)
        return absorber

    async def _finish_rest(self, packed: Packed, attempts: int) -> Fetched:
        """End a file of which only the rest was fetched.

        That it fits is the validator's word, until the archive is read back.
        """
        await self._absorb()
        if self._absorber is None:
            raise AssertionError("nothing was absorbed")
        rest = (await self._absorbed(self._absorber)).digester
        entry = packed.entry
        if rest.size != entry.size - self._base:
            raise SourceChanged("The file changed while the job was interrupted.")
        whole = Whole(
            crc32=entry.crc32,
            size=entry.size,
            packed_size=entry.packed_size,
            sha256=packed.sha256,
            attempts=attempts,
        )
        tail = Tail(base=self._base, crc32=rest.crc32)
        return await self._spooled(Note(origin=self.origin, deflated=False, whole=whole, tail=tail))

    async def _finish_small(self, attempts: int) -> Fetched:
        data = b"".join(self._waiting)
        self._check_format(data[:_HEAD])
        digester = self._new_digester()
        digester.update(data)
        self._verify(digester)
        packed, method = self._pack(data)
        note = self._note(digester, len(packed), method is Method.DEFLATED, attempts)
        if self._spool.memory.take(len(packed)):
            return Fetched.of(note, MemoryPayload(packed, self._spool.memory, note))
        await self.room.take(len(packed))
        self._absorber = self._spool.absorber(self._path, Digester())
        await self._spool.run(self._absorber.absorb_sync, [packed])
        await self._spool.run(self._absorber.finish_sync)
        return await self._spooled(note)

    def _pack(self, data: bytes) -> tuple[bytes, Method]:
        # Nearly every byte value within a KiB: packed or encrypted already.
        if self._compress and len(set(data[:1024])) < 240 and compressible(data):
            deflater = Deflater()
            packed = deflater.update(data) + deflater.finish()
            if len(packed) < len(data):
                return packed, Method.DEFLATED
        return data, Method.STORED

    def _verify(self, digester: Digester) -> None:
        verify(
            digester,
            self._entry.source,
            self.origin.digests,
            announced_size=self.origin.size,
        )

    def _note(self, digester: Digester, packed_size: int, deflated: bool, attempts: int) -> Note:
        """All about a file that is whole and verified."""
        whole = Whole(
            crc32=digester.crc32,
            size=digester.size,
            packed_size=packed_size,
            sha256=digester.sha256,
            attempts=attempts,
        )
        return Note(origin=self.origin, deflated=deflated, whole=whole)

    async def _spooled(self, note: Note) -> Fetched:
        await self._spool.run(note.write_sync, self._path)
        self._absorber = None
        return self._handed_over(note)

    def _handed_over(self, note: Note) -> Fetched:
        """Hand the file on the temporary disk over to whoever packs it."""
        self._left = None
        reservation = self.room.hand_over(note.size_on_disk)
        return Fetched.of(note, FilePayload(self._spool, self._path, note, reservation))

    async def close(self) -> None:
        """Drop the bytes that are here, and begin from nothing if more come."""
        absorber, left = self._absorber, self._left
        await self._hop_ended()
        self._reset()
        self._left = None
        try:
            if absorber is not None:
                await self._spool.run(absorber.discard_sync)
            if left is not None:
                await self._spool.run(remove_sync, *left.paths)
        finally:
            self.room.release()

    async def leave(self) -> None:
        """Leave the bytes on the disk for the job's next run."""
        await self._hop_ended()
        try:
            if self._absorber is not None:
                await self._spool.run(self._absorber.close_sync)
        except SpoolError as exc:  # the next run looks at what there is
            log.warning("fetch.not_left", fileId=self._entry.label, error=exc.message)
        finally:
            self.room.release()

    async def _hop_ended(self) -> None:
        if self._hop is not None:
            await settled(self._hop)
