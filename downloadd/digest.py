"""Checksums of a file while it streams, and what they are compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from isal import isal_zlib

from downloadd.errors import ChecksumMismatch, SizeMismatch
from downloadd.model import Source

_LABELS = {"sha256": "SHA-256", "md5": "MD5"}


class Digester:
    """Size, CRC-32 and SHA-256 of bytes that come in pieces, MD5 on request.

    Large pieces are hashed without the interpreter lock. Not safe for use by
    two threads at once.
    """

    def __init__(self, *, md5: bool = False) -> None:
        self._size = 0
        self._crc32 = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        self._size += memoryview(data).nbytes
        self._crc32 = isal_zlib.crc32(data, self._crc32)
        self._sha256.update(data)
        if self._md5 is not None:
            self._md5.update(data)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._size

    @property
    def crc32(self) -> int:
        """CRC-32 (ISO-HDLC, the one of ZIP) of the bytes so far."""
        return self._crc32

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, lower-case hex."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str | None:
        """MD5 of the bytes so far, lower-case hex; None unless it was asked for."""
        return self._md5.hexdigest() if self._md5 is not None else None


def verify(
    digester: Digester,
    source: Source,
    announced: Mapping[str, str],
    *,
    announced_size: int | None,
) -> None:
    """Compare a whole file with what its caller and its source say of it.

    ``announced`` holds lower-case hex digests by algorithm, "sha256" and
    "md5". An MD5 is announced more often than it is needed, so one that the
    digester did not compute is passed over; one that the caller gave is not.

    Raises ``SizeMismatch``, ``ChecksumMismatch``; ``ValueError`` where the
    caller gave an MD5 and the digester was made without.
    """
    if source.md5 is not None and digester.md5 is None:
        raise ValueError("The caller gave an MD5, but the digester computes none.")
    _check_size(digester.size, source.size, announced_size)
    given = {"sha256": source.sha256, "md5": source.md5}
    for algorithm, actual in (("sha256", digester.sha256), ("md5", digester.md5)):
        if actual is not None:
            _check_digest(algorithm, actual, given[algorithm], announced.get(algorithm))


def _check_size(actual: int, given: int | None, announced: int | None) -> None:
    if given is not None and actual != given:
        raise SizeMismatch(
            f"The file has {actual} bytes, but the request says {given}; "
            "correct the size in the request or the file at its source.",
        )
    if announced is not None and actual != announced:
        raise SizeMismatch(
            f"The file has {actual} bytes, but its source announced {announced}; "
            "the source is at fault, or the file changed meanwhile.",
        )


def _check_digest(algorithm: str, actual: str, given: str | None, announced: str | None) -> None:
    label = _LABELS[algorithm]
    if given is not None and actual != given.lower():
        raise ChecksumMismatch(
            f"The file's {label} is {actual}, but the request says {given.lower()}; "
            "correct it in the request, or the file at its source.",
        )
    if announced is not None and actual != announced.lower():
        raise ChecksumMismatch(
            f"The file's {label} is {actual}, but its source announced {announced.lower()}; "
            "it was damaged on the way, or the source is at fault.",
        )
