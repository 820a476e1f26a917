"""What is in the archive so far: files, their entries in the layout, their payloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from downloadd.archive import MANIFEST_INDEX, MANIFEST_NAME, Entry, Layout, Method, manifest
from downloadd.digest import Digester
from downloadd.errors import AllFilesFailed, FileError, LayoutChanged
from downloadd.model import FileEntry, FileStatus, Job, OnError
from downloadd.naming import Names
from downloadd.pipeline.fetched import Fetched, Packed
from downloadd.pipeline.payload import MemoryPayload, Payload
from downloadd.pipeline.spool import Spool
from downloadd.ports import Transfer, Twin

#: A file below this size is fetched whole rather than from where it is stored.
_LARGE = 1 << 20


class Packing:
    """The files of one run. No I/O but discarding and leaving payloads."""

    def __init__(self, job: Job) -> None:
        """Begin with nothing packed.

        Files that failed for good in an earlier run stay failed where they
        are left out of the archive; elsewhere they end the job, or come.
        """
        self._job = job
        skip = job.options.on_error is OnError.SKIP
        self.files = {entry.index: _pristine(entry, keep_failed=skip) for entry in job.files}
        self.layout = Layout()
        #: Packed bytes that the storage may still need, by the entry's index.
        self.payloads: dict[int, Payload] = {}
        self.names = Names([entry.source for entry in job.files], reserved=(MANIFEST_NAME,))
        #: Files of an earlier run whose bytes are needed once more.
        self.again: dict[int, Packed] = {}
        self.current: str | None = job.current_file
        self._changed: dict[int, FileEntry] = {}
        self._validators: dict[int, str] = {}
        self._transfers: list[Transfer] = []

    def restore(
        self,
        files: Sequence[FileEntry],
        entries: Sequence[Entry],
        missing: Callable[[int, int], int | None],
        *,
        sealed: bool,
        validators: Mapping[int, str],
    ) -> None:
        """Lay out an earlier run's entries as they were.

        ``missing`` tells of a stretch of the layout where the first byte lies
        that the storage lacks, if it does. Raises ``LayoutChanged`` where a
        manifest comes out differently than it was packed.
        """
        states = {entry.index: entry for entry in files}
        for entry in entries:
            self.layout.append(entry)
            if entry.index == MANIFEST_INDEX:
                continue
            self.files[entry.index] = state = states[entry.index]
            self.names.restore(entry.index, entry.name)
            start, stop = self.layout.span(entry.index)
            if (lacked := missing(start, stop)) is not None:
                self.again[entry.index] = Packed(
                    entry=entry,
                    sha256=state.sha256 or "",
                    stored=max(0, lacked - (stop - entry.packed_size)),
                    validator=validators.get(entry.index),
                )
        if sealed:
            if entries and entries[-1].index == MANIFEST_INDEX:
                self._restore_manifest(entries[-1])
            self.layout.seal()

    def bytes_here(self) -> int:
        """Bytes of the files that are packed and not needed once more."""
        return sum(
            entry.size
            for entry in self.layout.entries
            # Nobody fetched the manifest.
            if entry.index != MANIFEST_INDEX and entry.index not in self.again
        )

    def pending(self) -> list[int]:
        """The files to fetch, those that are laid out already first."""
        fresh = [i for i, e in self.files.items() if e.status is FileStatus.PENDING]
        return [*self.again, *fresh]

    def take_changed(self) -> tuple[FileEntry, ...]:
        """The files settled since the last call."""
        changed, self._changed = tuple(self._changed.values()), {}
        return changed

    def take_transfers(self) -> tuple[Transfer, ...]:
        """How the files came that were added since the last call."""
        transfers, self._transfers = tuple(self._transfers), []
        return transfers

    def settled(self) -> list[int]:
        """The files that have arrived or failed."""
        return [i for i, entry in self.files.items() if entry.status is not FileStatus.PENDING]

    def tell_again(self, indices: Sequence[int]) -> None:
        """Count these files as changed: what was told of them is no longer so."""
        self._changed |= {index: self.files[index] for index in indices}

    def spans(self) -> dict[int, tuple[int, int]]:
        """Where the entries lie whose payloads are here."""
        return {index: self.layout.span(index) for index in self.payloads}

    def validators(self) -> dict[int, str]:
        """By index: what the sources of large files that are not stored yet may be asked with."""
        return {i: it for i, it in self._validators.items() if i in self.payloads}

    def add(self, index: int, fetched: Fetched, *, now: float) -> None:
        """Append a fetched file. ``LayoutChanged``: it is not what was packed before."""
        self.payloads[index] = payload = fetched.payload
        key = self._job.files[index].source.key
        if key is not None and fetched.validator and fetched.method is Method.STORED:
            payload.twin = Twin(key=key, etag=fetched.validator.strip('"'))
        if fetched.transfer is not None:
            self._transfers.append(fetched.transfer)
        if fetched.validator is not None and fetched.size >= _LARGE:
            self._validators[index] = fetched.validator
        if (packed := self.again.pop(index, None)) is not None:
            _compare(packed, fetched)
            return
        name = self.names.settle(index, fetched.disposition)
        modified = fetched.modified
        self.layout.append(
            Entry(
                index=index,
                name=name,
                method=fetched.method,
                crc32=fetched.crc32,
                size=fetched.size,
                packed_size=fetched.packed_size,
                modified=self._job.created_at if modified is None else modified,
            )
        )
        self._settle(
            index,
            status=FileStatus.COMPLETED,
            name=name,
            size=fetched.size,
            sha256=fetched.sha256,
            attempts=fetched.attempts,
            bytes_fetched=fetched.size,
            fetched_at=now,
        )

    def fail(self, index: int, exc: FileError, *, attempts: int) -> FileEntry:
        """Note that a file cannot be had; returns it."""
        if index in self.again:
            raise LayoutChanged("A file that is needed once more is gone.") from exc
        return self._settle(
            index,
            status=FileStatus.FAILED,
            attempts=attempts,
            error=exc.message,
            error_code=exc.code,
        )

    def _settle(self, index: int, **changes: object) -> FileEntry:
        entry = self.files[index].evolve(**changes)
        self.files[index] = self._changed[index] = entry
        self.current = entry.label
        return entry

    def failed(self) -> list[FileEntry]:
        return [entry for entry in self.files.values() if entry.status is FileStatus.FAILED]

    def seal(self) -> None:
        """Close the archive: nothing more will be added. ``AllFilesFailed``."""
        failed = self.failed()
        if len(failed) == len(self.files):
            raise AllFilesFailed(f"None of the files could be had. The first: {failed[0].error}")
        # An archive that lacks files always says which, and why.
        if self._job.options.manifest or failed:
            entry, payload = self._manifest()
            self.layout.append(entry)
            self.payloads[MANIFEST_INDEX] = payload
        self.layout.seal()

    def _manifest(self) -> tuple[Entry, Payload]:
        data = manifest(self._job.evolve(files=tuple(self.files.values())))
        digester = Digester()
        digester.update(data)
        entry = Entry(
            index=MANIFEST_INDEX,
            name=MANIFEST_NAME,
            method=Method.STORED,
            crc32=digester.crc32,
            size=len(data),
            packed_size=len(data),
            modified=self._job.created_at,
        )
        return entry, MemoryPayload(data)

    def _restore_manifest(self, packed: Entry) -> None:
        entry, payload = self._manifest()
        if entry != packed:
            raise LayoutChanged("The manifest came out differently.")
        self.payloads[MANIFEST_INDEX] = payload

    async def discard(self) -> None:
        """Drop every payload."""
        for index, payload in list(self.payloads.items()):
            await payload.discard()
            del self.payloads[index]

    async def leave(self, spool: Spool, *, in_memory: bool) -> None:
        """Leave the payloads that are in memory, or the others, for the job's next run."""
        for index, payload in list(self.payloads.items()):
            if payload.in_memory is in_memory:
                await payload.leave(spool, spool.path(self._job.id, index))
                del self.payloads[index]


def _compare(packed: Packed, fetched: Fetched) -> None:
    same = (
        fetched.sha256 == packed.sha256
        and fetched.packed_size == packed.entry.packed_size
        and fetched.method == packed.entry.method
    )
    if not same:
        raise LayoutChanged("A file changed at its source while the job was interrupted.")


def _pristine(entry: FileEntry, *, keep_failed: bool) -> FileEntry:
    """A file as if it had not been tried."""
    if entry.status is FileStatus.PENDING or (keep_failed and entry.status is FileStatus.FAILED):
        return entry
    return FileEntry(index=entry.index, source=entry.source)
