"""Bytes on their way into the local store's folder; all of it blocks and runs in threads."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from downloadd.objects.files import Folder, Placed, no_upload, placed_part, stored
from downloadd.ports import Part, Stored

#: Where there is none, a full sync does the same and a little more.
_sync_data = getattr(os, "fdatasync", os.fsync)
_O_DSYNC: int = getattr(os, "O_DSYNC", 0)


class Descriptor:
    """A file that is opened in one thread hop and used in others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def open(self, flags: int) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, flags | os.O_CLOEXEC, 0o644)
        return self._fd

    def read(self, size: int, offset: int) -> bytes:
        return os.pread(self.open(os.O_RDONLY), size, offset)

    def stat(self) -> os.stat_result:
        return os.fstat(self.open(os.O_RDONLY))

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def _write_at(fd: int, chunks: Iterable[bytes], offset: int) -> int:
    """Write chunks one after the other and return where they end."""
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written
    return offset


class Draft:
    """The bytes of a ``put``, beside the objects until they are all there."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._file = Descriptor(folder.uploads / f"put-{secrets.token_hex(16)}")
        self._end = 0
        self._begun = False

    def write(self, chunks: Sequence[bytes]) -> None:
        self._begun = True
        fd = self._file.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._end = _write_at(fd, chunks, self._end)

    def publish(self, chunks: Sequence[bytes], key: str) -> None:
        """Write the last bytes and make them the object; on return it is durable.

        After each call to the system a thread waits until the event loop lets
        the interpreter's lock go, so there are as few as can be: a file that
        is opened like this is synced by its write.
        """
        fd = self._file.open(os.O_WRONLY | os.O_CREAT | _O_DSYNC)
        self._end = _write_at(fd, [b"".join(chunks)], self._end)
        if self._begun or not _O_DSYNC:
            _sync_data(fd)
        self._folder.move_in(self._file.path, key)

    def finish(self) -> Stored:
        """Describe the object and let go of it; does not block."""
        found = stored(os.fstat(self._file.open(os.O_RDONLY)))
        self._file.close()
        return found

    def discard(self) -> None:
        """Forget what was written; what was published stays."""
        self._file.close()
        self._file.path.unlink(missing_ok=True)


class PartWriter:
    """One part on its way into an upload's file."""

    def __init__(self, folder: Folder, upload_id: str, number: int, offset: int) -> None:
        self._place = folder.upload_path(upload_id)
        self._file = Descriptor(self._place / "data")
        self._number = number
        self._start = self._end = offset

    def write(self, chunks: Sequence[bytes]) -> None:
        try:
            fd = self._file.open(os.O_WRONLY)
        except FileNotFoundError as exc:
            raise no_upload() from exc
        self._end = _write_at(fd, chunks, self._end)

    def finish(self, chunks: Sequence[bytes], crc32: int) -> Part:
        """Write the last bytes; on return the part and its line in the journal are durable."""
        self.write(chunks)
        _sync_data(self._file.open(os.O_WRONLY))
        placed = Placed(offset=self._start, size=self._end - self._start, crc32=crc32)
        try:
            _append_line(self._place / "parts", [self._number, placed.offset, placed.size, crc32])
        except FileNotFoundError as exc:  # removed while the part was written
            raise no_upload() from exc
        return placed_part(self._number, placed)

    def close(self) -> None:
        self._file.close()


def _append_line(path: Path, record: list[int]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        # The line feed before it ends whatever a crash has left unfinished.
        line = b"\n" + json.dumps(record).encode() + b"\n"
        if os.write(fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    finally:
        os.close(fd)
