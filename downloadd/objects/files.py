"""The local store's folder: everything here blocks and runs in a thread.

    <folder>/<key>                    an object, whole: it came by rename
    <folder>/.meta/<key>.json         of one that was uploaded in parts: of which
    <folder>/.uploads/<id>/data       a multipart upload, parts at their offsets
    <folder>/.uploads/<id>/parts      its journal: a line for each durable part
    <folder>/.uploads/<id>/upload.json
    <folder>/.uploads/put-*           an object that is being written

A crash leaves an object as it was or as it shall be. What else is said of an
object (its file name, its job) is not kept: links carry the file name
themselves, and every file less is felt by small jobs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from downloadd.errors import ObjectMissing, StorageCorrupt, StorageRefused, UploadMissing
from downloadd.model import Record
from downloadd.ports import Found, Part, Stored

#: How often a rename may lose its target folder to somebody who tidies up.
_RENAMES = 5
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed(Record):
    """A part as the journal has it."""

    offset: int
    size: int
    crc32: int


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def no_upload() -> UploadMissing:
    """The error for an upload that is not, or no longer, under way."""
    return UploadMissing("The upload is gone: it was completed, dropped, or never begun.")


def placed_part(number: int, placed: Placed) -> Part:
    """Describe a journalled part to the store's caller."""
    return Part(number=number, size=placed.size, etag=f"{placed.crc32:08x}", crc32=placed.crc32)


def _composite(parts: Iterable[Part]) -> str:
    """The CRC-32 of the parts' CRC-32s and their number, as S3's composite checksums."""
    etags = [part.etag for part in parts]
    return f"{zlib.crc32(''.join(etags).encode()):08x}-{len(etags)}"


class Folder:
    """Objects and uploads below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uploads = root / ".uploads"
        self._meta = root / ".meta"
        #: Kept open: every object that comes has it synced.
        self._root_fd: int | None = None
        self._lock: int | None = None

    def prepare(self) -> None:
        """Make the folders; remove what dead processes left half-way, unless others are alive."""
        for path in (self.root, self.uploads, self._meta):
            path.mkdir(parents=True, exist_ok=True)
        # Shared while we live: who gets it alone knows that all others are dead.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(self.root / ".lock", flags, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_drafts()
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def _remove_drafts(self) -> None:
        for path in self.uploads.iterdir():
            if path.name.startswith("put-"):
                path.unlink(missing_ok=True)
            elif _UPLOAD_ID.fullmatch(path.name) and not (path / "upload.json").exists():
                # It was never begun, or not wholly dropped: no listing has it.
                shutil.rmtree(path, ignore_errors=True)

    def probe(self) -> int:
        """Write an empty file, and return the bytes that are free."""
        path = self.uploads / f"put-{secrets.token_hex(16)}"
        path.touch(exist_ok=False)
        path.unlink()
        room = os.statvfs(self.root)
        return room.f_bavail * room.f_frsize

    # --- objects ---

    def object_path(self, key: str) -> Path:
        """Return where an object lies; ``StorageRefused`` for a key that leads elsewhere."""
        segments = key.split("/")
        safe = key.isprintable() and "\\" not in key and len(key.encode("utf-8", "replace")) <= 1024
        if not safe or any(not part or part.startswith(".") for part in segments):
            raise StorageRefused(f"{key!r} cannot be the key of a local file.")
        return self.root.joinpath(*segments)

    def _meta_path(self, key: str) -> Path:
        return self._meta / f"{key}.json"

    def note_parts(self, key: str, composite: str) -> None:
        """Write down of which parts an object is made, before it is there."""
        draft = self.uploads / f"put-{secrets.token_hex(16)}"
        with draft.open("x", encoding="utf-8") as file:
            json.dump({"parts": composite}, file)
            file.flush()
            os.fsync(file.fileno())
        self._rename(draft, self._meta_path(key))

    def _noted_parts(self, key: str) -> str | None:
        try:
            document = json.loads(self._meta_path(key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return document.get("parts") if isinstance(document, dict) else None

    def move_in(self, path: Path, key: str) -> None:
        """Make a synced file the object; on return that is durable."""
        target = self.object_path(key)
        self._rename(path, target)
        for folder in (target.parent, *target.parent.parents):
            if folder == self.root:
                break
            _sync_folder(folder)
        if self._root_fd is None:
            self._root_fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(self._root_fd)

    def close(self) -> None:
        """Let go of the folder."""
        for descriptor in (self._root_fd, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._root_fd = self._lock = None

    def _rename(self, path: Path, target: Path) -> None:
        for _ in range(_RENAMES):
            # A ``delete`` may take the emptied folder away again.
            with contextlib.suppress(FileNotFoundError):
                path.rename(target)
                return
            target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)

    def describe(self, key: str) -> Stored:
        """Stat an object; the ETag is that of aiohttp's ``FileResponse``. ``ObjectMissing``."""
        try:
            found = self.object_path(key).stat()
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise ObjectMissing(f"There is no {key!r}.") from exc
        if not stat.S_ISREG(found.st_mode):
            raise ObjectMissing(f"There is no {key!r}.")
        return stored(found)

    def delete(self, key: str) -> None:
        for path, top in ((self.object_path(key), self.root), (self._meta_path(key), self._meta)):
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == top or not _remove_empty(folder):
                    break

    def find_objects(self, prefix: str) -> Iterator[Found]:
        """Find objects, and notes on such as never came or are gone."""
        for path in _files(self.root):
            key = path.relative_to(self.root).as_posix()
            if key.startswith(prefix):
                yield Found(key=key)
        for path in _files(self._meta):
            key = path.relative_to(self._meta).as_posix().removesuffix(".json")
            if key.startswith(prefix) and not self.root.joinpath(key).exists():
                yield Found(key=key)

    def belongs_to(self, namespace: str) -> bool:
        """Whether this installation is the folder's owner, which it becomes where there is none."""
        owner = self.root / ".owner"
        if not owner.exists():
            draft = self.uploads / f"put-{secrets.token_hex(16)}"
            try:
                draft.write_text(namespace, encoding="utf-8")
                # Whole or not at all: a name cut short would be somebody else's for ever.
                with contextlib.suppress(FileExistsError):
                    owner.hardlink_to(draft)
            finally:
                draft.unlink(missing_ok=True)
        return owner.read_text(encoding="utf-8") == namespace

    # --- uploads ---

    def upload_path(self, upload_id: str) -> Path:
        if not _UPLOAD_ID.fullmatch(upload_id):
            raise no_upload()
        return self.uploads / upload_id

    def begin(self, key: str) -> str:
        self.object_path(key)
        upload_id = secrets.token_hex(16)
        # Nobody knows the id before it is returned: an upload is complete or unknown.
        path = self.uploads / upload_id
        path.mkdir()
        try:
            for name, text in (
                ("data", ""),
                ("parts", ""),
                ("upload.json", json.dumps({"key": key})),
            ):
                with (path / name).open("x", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            _sync_folder(path)
            _sync_folder(self.uploads)
        except OSError:
            # A full disk is not to keep one more for each try.
            shutil.rmtree(path, ignore_errors=True)
            raise
        return upload_id

    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        self._check_upload(key, upload_id)
        placed = _journal(self.upload_path(upload_id) / "parts")
        return [placed_part(number, placed[number]) for number in sorted(placed)]

    def find_uploads(self, prefix: str) -> Iterator[Found]:
        for path in self.uploads.iterdir():
            if not _UPLOAD_ID.fullmatch(path.name):
                continue
            try:
                document = json.loads((path / "upload.json").read_bytes())
            except (FileNotFoundError, NotADirectoryError, ValueError):
                continue  # it is just being begun or dropped
            if document["key"].startswith(prefix):
                yield Found(key=document["key"], upload_id=path.name)

    def _check_upload(self, key: str, upload_id: str) -> None:
        path = self.upload_path(upload_id)
        try:
            document = json.loads((path / "upload.json").read_bytes())
        except (FileNotFoundError, ValueError) as exc:
            raise no_upload() from exc
        # The data goes first when an upload is completed.
        if document["key"] != key or not (path / "data").exists():
            raise no_upload()

    def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> Stored:
        parts = sorted(parts, key=lambda part: part.number)
        try:
            self._check_upload(key, upload_id)
        except UploadMissing:
            found = self._completed_before(key, parts)
            self.abort(upload_id)
            return found
        path = self.upload_path(upload_id)
        size = _end_of(parts, _journal(path / "parts"))
        _settle(path / "data", size)
        self.note_parts(key, _composite(parts))
        self.move_in(path / "data", key)
        self.abort(upload_id)
        return self.describe(key)

    def _completed_before(self, key: str, parts: Sequence[Part]) -> Stored:
        try:
            found = self.describe(key)
        except ObjectMissing as exc:
            raise no_upload() from exc
        same = self._noted_parts(key) == _composite(parts)
        if not same or found.size != sum(part.size for part in parts):
            raise StorageCorrupt(f"{key!r} is not what these parts make.")
        return found

    def abort(self, upload_id: str) -> None:
        path = self.uploads / upload_id
        # Two may do so at once, a job's worker and whoever cancels it: what the
        # other has removed is no failure, but whatever is left after that is.
        while _UPLOAD_ID.fullmatch(upload_id) and path.exists():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)


def stored(found: os.stat_result) -> Stored:
    """Describe an object from its file's status."""
    return Stored(size=found.st_size, etag=f"{found.st_mtime_ns:x}-{found.st_size:x}")


def _files(folder: Path) -> Iterator[Path]:
    """The regular files below a folder, what is hidden left out."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return  # emptied meanwhile, and removed
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(folder / entry.name)
        elif entry.is_file(follow_symlinks=False):
            yield folder / entry.name


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _journal(path: Path) -> dict[int, Placed]:
    """Read an upload's journal; of several lines for one part the last one counts."""
    return dict(_lines(path))


def _lines(path: Path) -> Iterator[tuple[int, Placed]]:
    for line in path.read_bytes().splitlines():
        try:
            number, offset, size, crc32 = json.loads(line)
        except ValueError:
            # Blank, or cut off by a crash: that part was never acknowledged.
            continue
        yield number, Placed(offset=offset, size=size, crc32=crc32)


def _end_of(parts: Sequence[Part], journal: Mapping[int, Placed]) -> int:
    """Return where the last part ends; ``StorageCorrupt`` unless they join, as journalled."""
    end = 0
    for part in parts:
        placed = journal.get(part.number)
        if placed is None or placed_part(part.number, placed) != part or placed.offset != end:
            raise StorageCorrupt(f"Part {part.number} is not stored as it was sent.")
        end += placed.size
    return end


def _settle(path: Path, size: int) -> None:
    """Make a file's size that of its parts, and all of it durable."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if (found := os.fstat(fd).st_size) < size:
            raise StorageCorrupt(f"The upload has {found} bytes of {size}.")
        # Parts that are not asked for end here, as they do in S3.
        os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)
