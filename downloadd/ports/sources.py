"""Where files come from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from downloadd.model import Record, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFacts(Record):
    """What a source says of a file without sending it."""

    #: Bytes, where it says so.
    size: int | None = None
    #: As in ``SourceBody``.
    file_name: str | None = None
    content_type: str | None = None


class SourceBody(Protocol):
    """An answer whose headers have arrived; the body is read once, by ``chunks``."""

    #: Where the body begins in the file: the offset asked for, or 0 when the
    #: source sent the whole file (it ignored the range, or the file changed).
    offset: int
    #: Bytes of the whole file, where the source said so.
    size: int | None
    #: What to send in ``If-Range`` to go on later: a strong ETag, else an
    #: HTTP date; None where the source gave neither or refuses ranges.
    validator: str | None
    #: File name from ``Content-Disposition``, raw (not made safe).
    file_name: str | None
    #: Media type without parameters, lower case.
    content_type: str | None
    #: From ``Content-Encoding``; None for identity. Bodies are never decoded.
    content_encoding: str | None
    #: From ``Last-Modified``, seconds since the epoch.
    modified: float | None
    #: Digests of the whole file that the source announced, lower-case hex by
    #: algorithm: "sha256", "md5" (Repr-Digest, Digest, Content-MD5). Where only
    #: a part of the file comes, those of the part alone are left out.
    digests: Mapping[str, str]

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises ``SourceStalled`` when no byte comes for the stall time-out,
        ``SourceTruncated`` when it ends before its announced length or in the
        middle of a chunk, ``SourceUnreachable`` on a lost connection.
        """
        ...


class SourceReader(Protocol):
    """Sources as the pipeline sees them: HTTP, or the storage."""

    def open(
        self,
        source: Source,
        *,
        offset: int = 0,
        validator: str | None = None,
    ) -> AbstractAsyncContextManager[SourceBody]:
        """Request a file, from ``offset`` on where that is above 0.

        Follows redirects, each address checked by the guard. With an offset
        it sends ``Range`` and, given a validator, ``If-Range``. Leaving the
        context closes the connection unless the body was read to its end.

        Raises ``AddressBlocked``, ``SourceUnreachable``, ``SourceStalled``,
        ``SourceUnavailable`` (with ``retry_after``), ``SourceRefused``,
        ``SourceProtocolError``, ``SourceChanged`` (416, or a range other than
        the one asked for), ``TooManyRedirects``; for a stored file ``SourceMissing``,
        and ``StorageUnavailable``, which is no fault of the file's.
        """
        ...


class SourceDescriber(Protocol):
    """Sources as a preflight sees them."""

    async def describe(self, source: Source) -> SourceFacts:
        """Ask what there is, and fetch at most one byte of it.

        Follows redirects and raises as ``SourceReader.open``. Has no limit of
        its own on how long that may take but those of single requests.
        """
        ...
