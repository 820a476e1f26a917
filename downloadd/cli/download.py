"""An archive from a server to a file or a pipe: resumed, verified, put in place.

What arrives lies in ``FILE.part`` until its SHA-256 is the job's. Beside it,
``FILE.part.sha256`` says which archive it is a part of, so that a later run
can go on.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import io
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from downloadd.cli.client import ApiClient
from downloadd.errors import CommandError, DownloadFailed, ServerUnreachable

#: Tries one after the other that may bring nothing.
RETRIES = 5
#: Seconds before the second of them; doubled each time.
BACKOFF = 0.5
BACKOFF_LIMIT = 10.0
#: Bytes that are written and hashed at once, away from the event loop.
_BLOCK = 1 << 20
#: What stands in ``FILE.part.sha256``.
_NOTE = re.compile(r"[0-9a-f]{64}\n")

#: Told how many bytes of the archive are there.
Report = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What the server says of the archive."""

    job_id: str
    size: int
    sha256: str

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> Self:
        """From the resource of a completed job."""
        return cls(job_id=job["jobId"], size=job["totalSize"], sha256=job["sha256"])


class Sink:
    """Where the bytes go, and their SHA-256. Methods block; ``OSError`` comes through."""

    def __init__(self, file: BinaryIO) -> None:
        """``file`` is unbuffered."""
        self._file = file
        self._sha256 = hashlib.sha256()
        #: Bytes so far.
        self.position = 0

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._count(data)

    def reread(self) -> None:
        """Take what the file holds for the beginning."""
        while data := self._file.read(_BLOCK):
            self._count(data)

    def _count(self, data: bytes) -> None:
        self._sha256.update(data)
        self.position += len(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


async def save(
    client: ApiClient,
    expected: Expected,
    target: Path,
    report: Report,
    *,
    force: bool = False,
    keep: bool = True,
) -> None:
    """Download an archive to ``target``, which must not exist unless ``force``.

    Raises ``DownloadFailed``, ``ServerRefused``; ``FILE.part`` is then left for
    another run if ``keep``, unless its bytes are wrong.
    """
    part = _part(target)
    with _translated(part), _opened(part, expected, force) as file, _remains(target, keep):
        sink = Sink(file)
        await asyncio.to_thread(sink.reread)
        await _transfer(client, expected, sink, report)
        if sink.hexdigest() != expected.sha256:
            _discard(target)
            raise _wrong_bytes()
        await asyncio.to_thread(_put_in_place, file, part, target, force)


def _put_in_place(file: BinaryIO, part: Path, target: Path, force: bool) -> None:
    if not force and target.exists():
        raise DownloadFailed(f"{target} came into being meanwhile: name another file.")
    os.fsync(file.fileno())
    part.replace(target)
    _note(part).unlink()


async def pour(client: ApiClient, expected: Expected, descriptor: int, report: Report) -> None:
    """Download an archive to a pipe. Raises ``DownloadFailed``, ``ServerRefused``."""
    with _translated("Standard output"), io.FileIO(descriptor, "wb", closefd=False) as file:
        sink = Sink(file)
        await _transfer(client, expected, sink, report)
    if sink.hexdigest() != expected.sha256:
        raise _wrong_bytes()


def strangers_part(target: Path) -> Path | None:
    """The file where a part of the archive would go, if it is not ours to overwrite."""
    part = _part(target)
    return part if _is_strangers(part) else None


def _is_strangers(part: Path) -> bool:
    """Whether a file was not left by ``save``, which notes whose the bytes are before any come."""
    note = _note(part)
    if note.exists():
        return _NOTE.fullmatch(_text(note)) is None
    return part.exists() and part.stat().st_size > 0


def _text(note: Path) -> str:
    return note.read_text(encoding="utf-8", errors="replace")


@contextmanager
def _remains(target: Path, keep: bool) -> Iterator[None]:
    """Unless ``keep``, remove what has arrived when the rest never will."""
    try:
        yield
    except BaseException:
        if not keep:
            _discard(target)
        raise


def _discard(target: Path) -> None:
    """Remove what ``save`` has kept of an archive."""
    part = _part(target)
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.sha256")


@contextmanager
def _opened(part: Path, expected: Expected, force: bool = False) -> Iterator[BinaryIO]:
    """The part file, ours alone, emptied unless it belongs to this archive."""
    if not force and _is_strangers(part):
        raise DownloadFailed(f"{part} is not from downloadd: move it away, or name another file.")
    with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise _in_use(part) from exc
        if not os.path.samestat(os.fstat(file.fileno()), part.stat()):
            # It was finished and put in its place while we opened it.
            raise _in_use(part)
        note, known = _note(part), f"{expected.sha256}\n"
        whose = _text(note) if note.exists() else ""
        if whose != known or part.stat().st_size > expected.size:
            file.truncate()
            note.write_text(known, encoding="utf-8")
        yield file


async def _transfer(client: ApiClient, expected: Expected, sink: Sink, report: Report) -> None:
    """Fetch from where the sink is to the end, over as many connections as it takes."""
    etag: str | None = None
    fruitless = 0
    report(sink.position)
    while sink.position < expected.size:
        before = sink.position
        try:
            async with client.archive(expected.job_id, offset=before, etag=etag) as body:
                etag = body.etag
                await _copy(body.chunks(), body.start, expected, sink, report)
        except CommandError as exc:
            fruitless = 0 if sink.position > before else fruitless + 1
            if not exc.transient:
                raise
            if fruitless > RETRIES:
                raise DownloadFailed(
                    f"The archive broke off at {sink.position} of {expected.size} bytes. "
                    f"{exc.message} Run the same command again to go on.",
                ) from exc
            await asyncio.sleep(min(BACKOFF * 2**fruitless, BACKOFF_LIMIT))


async def _copy(
    chunks: AsyncIterator[bytes],
    start: int,
    expected: Expected,
    sink: Sink,
    report: Report,
) -> None:
    """Write what one connection brings; bytes that the sink has already are passed over."""
    if start > sink.position:
        raise DownloadFailed("The server sent another range of the archive than was asked for.")
    known = sink.position - start
    async for block in _blocks(chunks):
        fresh, known = block[known:], max(0, known - len(block))
        if sink.position + len(fresh) > expected.size:
            raise DownloadFailed("The server sent more than the archive has.")
        await asyncio.to_thread(sink.write, fresh)
        report(sink.position)
    if sink.position < expected.size:
        raise ServerUnreachable("The archive ended early.")


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Collect chunks to about a MiB; what came before an error is not lost."""
    pieces: list[bytes] = []
    size = 0
    try:
        async for chunk in chunks:
            pieces.append(chunk)
            size += len(chunk)
            if size >= _BLOCK:
                yield b"".join(pieces)
                pieces, size = [], 0
    except Exception:
        if pieces:
            yield b"".join(pieces)
        raise
    if pieces:
        yield b"".join(pieces)


@contextmanager
def _translated(what: object) -> Iterator[None]:
    """Errors of the file system, as sentences."""
    try:
        yield
    except OSError as exc:
        raise DownloadFailed(f"{what} cannot be written: {exc.strerror or exc}.") from exc


def _in_use(part: Path) -> DownloadFailed:
    return DownloadFailed(f"{part} is being written by another download.")


def _wrong_bytes() -> DownloadFailed:
    return DownloadFailed(
        "What arrived is not the archive: its SHA-256 is not the job's. Run the command again.",
    )
