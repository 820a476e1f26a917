"""What there is behind a URL, without fetching it: ``ports.SourceDescriber`` over HTTP.

HEAD, and where that brings no answer, or none with a length, a GET of the
first byte: many servers, and all URLs that are signed for GET, refuse HEAD.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from downloadd.errors import (
    SourceProtocolError,
    SourceStalled,
    SourceTruncated,
    SourceUnreachable,
)
from downloadd.model import Source
from downloadd.network import headers as read
from downloadd.network.faults import refusal
from downloadd.network.fetch import HttpSource
from downloadd.ports import SourceFacts

#: Seconds that HEAD may take: a server that never answers it may still answer GET.
HEAD_PATIENCE = 2.0

#: With these a server may mean the method and not the file: signatures are for
#: one method, and some programs have routes for GET alone.
_NO_HEAD = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.NOT_IMPLEMENTED,
    }
)
_WHOLE = frozenset({HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION})


class HttpDescriber:
    """Asks over the connections of an ``HttpSource``, whose rules on addresses hold."""

    def __init__(self, source: HttpSource, *, head_patience: float = HEAD_PATIENCE) -> None:
        """``head_patience``: seconds."""
        self._source = source
        self._head_patience = head_patience

    async def describe(self, source: Source) -> SourceFacts:
        """See ``ports.SourceDescriber``."""
        try:
            async with asyncio.timeout(self._head_patience):
                facts = await self._head(source)
        except (
            TimeoutError,
            SourceProtocolError,
            SourceStalled,
            SourceTruncated,
            SourceUnreachable,
        ):
            facts = None
        # No length often stands as zero: who made the answer left the body out.
        return facts if facts is not None and facts.size else await self._first_byte(source)

    async def _head(self, source: Source) -> SourceFacts | None:
        async with self._source.ask("HEAD", source, {}) as (response, host):
            if response.status in _NO_HEAD:
                return None
            if response.status not in _WHOLE:
                raise refusal(response.status, response.headers, host, ranged=False)
            return _facts(response.headers, read.content_length(response.headers))

    async def _first_byte(self, source: Source) -> SourceFacts:
        # Not read: leaving closes the connection, which bounds what may come.
        async with self._source.ask("GET", source, {"Range": "bytes=0-0"}) as (response, host):
            headers = response.headers
            if response.status in _WHOLE:
                return _facts(headers, read.content_length(headers))
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                part = read.content_range(headers)
                return _facts(headers, part.size if part else None)
            if read.is_of_nothing(headers) and (
                response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            ):
                # The type is that of the refusal.
                return SourceFacts(size=0, file_name=read.file_name(headers))
            raise refusal(response.status, headers, host, ranged=False)


def _facts(headers: read.Headers, size: int | None) -> SourceFacts:
    return SourceFacts(
        size=size,
        file_name=read.file_name(headers),
        content_type=read.content_type(headers),
    )
