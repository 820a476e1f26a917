"""What is asked for, and whether the archive that came holds it."""

from __future__ import annotations

import functools
import hashlib
import io
import subprocess
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.content import sha256
from tests.origin import Origin
from tests.tools import require_tool

MIB = 1 << 20
#: Seconds for what takes one or two when the machine is not busy.
PATIENCE = 30.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file of the origin's: its address, and what makes its bytes."""

    url: str
    seed: int
    size: int
    kind: str = "random"

    @property
    def sha256(self) -> str:
        return sha256(self.seed, self.size, self.kind)

    @property
    def path(self) -> str:
        """What the origin counts its requests by."""
        return f"/file/{self.seed}/{self.size}"


def want(origin: Origin, seed: int, size: int, **query: Any) -> Wanted:
    url = origin.url(seed=seed, size=size, **query)
    return Wanted(url=url, seed=seed, size=size, kind=query.get("kind", "random"))


class RemoteFile(io.RawIOBase):
    """An archive behind its link, read by ranges: it need not be copied to be looked at."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__()
        self._url = url
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        # zipfile asks for little; a request fetches much.
        stop = self._size if size < 0 else min(self._size, self._at + size)
        data = b""
        while self._at < stop:
            block, at = divmod(self._at, 16 * MIB)
            piece = self._block(block)[at : at + stop - self._at]
            self._at += len(piece)
            data += piece
        return data

    @functools.lru_cache(maxsize=2)  # noqa: B019 - lives as long as a test
    def _block(self, number: int) -> bytes:
        last = min((number + 1) * 16 * MIB, self._size) - 1
        asked = {"Range": f"bytes={number * 16 * MIB}-{last}"}
        request = urllib.request.Request(self._url, headers=asked)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            assert response.status == 206
            data: bytes = response.read()
            return data


def digests(path: Path | RemoteFile, names: Sequence[str] | None = None) -> dict[str, str]:
    """SHA-256 of an archive's members, all or some, read as a stream (CRC-32 checked too)."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist() if names is None else names:
            with archive.open(name) as member:
                found[name] = hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]
    return found


def assert_unzip_agrees(path: Path) -> None:
    """``unzip -t`` reads every member without a complaint."""
    ended = subprocess.run(
        [require_tool("unzip"), "-tqq", str(path)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
