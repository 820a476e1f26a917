"""Files from other people's URLs: ``ports.SourceReader`` over aiohttp. SPEC §4.1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Self, cast
from urllib.parse import urljoin

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

from downloadd.errors import (
    SourceChanged,
    SourceProtocolError,
    SourceTruncated,
    SourceUnreachable,
    TooManyRedirects,
)
from downloadd.model import Source
from downloadd.network import headers as read
from downloadd.network.dial import GuardedConnector, Leftover, on_a_new_connection
from downloadd.network.faults import (
    READ_FAULTS,
    REQUEST_FAULTS,
    refusal,
    telling_no_url,
    translated,
)
from downloadd.network.guard import AddressGuard
from downloadd.telemetry.tracing import Tracing

#: Bytes that wait in memory for a slow reader, per file, before the source is
#: held back; aiohttp lets twice as many gather.
READ_BUFFER = 256 * 1024

#: Longest header field, and so longest redirect target, bytes. Signed URLs of
#: clouds come with session tokens of one or two KiB.
MAX_HEADER = 16 * 1024

_REDIRECTS = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
#: 203 is a 200 that a proxy has changed (RFC 9110 §15.3.4).
_WHOLE = frozenset({HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION})

#: Ours to set, whatever the caller gives: they frame the message or name its target.
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "if-range",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class _Response(aiohttp.ClientResponse):
    """Remembers its connection's protocol, which alone knows how a connection ended."""

    wire: ResponseHandler | None = None

    async def start(self, connection: Connection) -> Self:
        self.wire = connection.protocol
        await super().start(connection)
        return self

    @property
    def ends_with_connection(self) -> bool:
        """Whether only the connection's end ends the body (RFC 9112 §6.3 item 8)."""
        return not ("Content-Length" in self.headers or "Transfer-Encoding" in self.headers)

    @property
    def connection_broke(self) -> bool:
        return self.wire is not None and isinstance(self.wire.exception(), aiohttp.ClientOSError)


class HttpBody:
    """``ports.SourceBody`` over one answer."""

    def __init__(self, response: _Response, host: str, part: read.ContentRange | None) -> None:
        headers = response.headers
        self.offset: int = part.start if part else 0
        self.size: int | None = part.size if part else read.content_length(headers)
        self.validator: str | None = read.validator(headers)
        self.file_name: str | None = read.file_name(headers)
        self.content_type: str | None = read.content_type(headers)
        self.content_encoding: str | None = read.content_encoding(headers)
        self.modified: float | None = read.modified(headers)
        self.digests: Mapping[str, str] = read.digests(headers, whole=part is None)
        self._response = response
        self._host = host

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Errors: see ``ports.SourceBody``."""
        position = self.offset
        try:
            async for chunk in self._response.content.iter_any():
                position += len(chunk)
                yield chunk
        except READ_FAULTS as exc:
            if isinstance(exc, aiohttp.ClientPayloadError) and self._response.connection_broke:
                raise self._lost() from exc
            raise translated(exc, self._host) from telling_no_url(exc)
        if self._response.ends_with_connection and self._response.connection_broke:
            raise self._lost()
        self._check_end(position)

    def _check_end(self, position: int) -> None:
        """Compare with ``Content-Range``; aiohttp has compared with ``Content-Length``."""
        if self.size is None or position == self.size:
            return
        if position > self.size:
            raise SourceProtocolError(f"The source at {self._host} sent more than it announced.")
        # It sent less than the range asked for, as it may.
        raise SourceTruncated(f"The source at {self._host} stopped before the end of the file.")

    def _lost(self) -> SourceUnreachable:
        return SourceUnreachable(f"The connection to {self._host} was lost.")


class HttpSource:
    """``ports.SourceReader`` over one aiohttp session. Make it with ``open_session``."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        guard: AddressGuard,
        *,
        max_redirects: int,
        head_timeout: float,
        tracing: Tracing | None = None,
    ) -> None:
        self._session = session
        self._guard = guard
        self._max_redirects = max_redirects
        self._head_timeout = head_timeout
        self._tracing = tracing or Tracing()

    @classmethod
    @asynccontextmanager
    async def open_session(
        cls,
        guard: AddressGuard,
        *,
        connect_timeout: float = 10.0,
        stall_timeout: float = 30.0,
        max_redirects: int = 5,
        user_agent: str = "downloadd",
        tracing: Tracing | None = None,
    ) -> AsyncIterator[Self]:
        """Give a reader whose connections are closed on leaving. Times in seconds.

        ``connect_timeout`` counts from the resolution of the name to the end
        of the TLS handshake; ``stall_timeout`` is the longest time without a
        byte. A whole answer head must come within both together, so that one
        sent byte by byte holds nothing up.
        """
        async with aiohttp.ClientSession(
            connector=GuardedConnector(guard),
            headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=connect_timeout,
                sock_connect=connect_timeout,
                sock_read=stall_timeout,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=_Response,
            auto_decompress=False,
            requote_redirect_url=False,
            trust_env=False,
            read_bufsize=READ_BUFFER,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
        ) as session:
            yield cls(
                session,
                guard,
                max_redirects=max_redirects,
                head_timeout=connect_timeout + stall_timeout,
                tracing=tracing,
            )

    @asynccontextmanager
    async def open(
        self,
        source: Source,
        *,
        offset: int = 0,
        validator: str | None = None,
    ) -> AsyncIterator[HttpBody]:
        """Request a file. Obligations and errors: see ``ports.SourceReader``."""
        ranged = _range_headers(offset, validator)
        async with self.ask("GET", source, ranged) as (response, host):
            yield _body(response, host, offset, validator)

    @asynccontextmanager
    async def ask(
        self, method: str, source: Source, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[_Response, str]]:
        """Give the answer to a request, whatever its status, and the host that it is from.

        Redirects are followed. ``headers`` are sent beside the source's own.
        """
        url = self._guard.check_url(source.url)
        own = {key: value for key, value in source.headers.items() if _is_callers(key)}
        if "@" in url.raw_authority:
            own = _with_basic_auth(own, url)
            url = url.with_user(None)
        response, host = await self._follow(method, url, own, {**self._trace(own), **headers})
        try:
            yield response, host
        finally:
            # An answer read to its end has given its connection back by now.
            response.close()

    def _trace(self, own: Mapping[str, str]) -> Mapping[str, str]:
        """What tells the source of our trace; nothing where the caller tells it of theirs."""
        theirs = any(name.lower() == "traceparent" for name in own)
        return {} if theirs else self._tracing.outgoing()

    async def _follow(
        self, method: str, url: URL, own: Mapping[str, str], always: Mapping[str, str]
    ) -> tuple[_Response, str]:
        """Ask, and go where the answer points, until one brings something else."""
        for _ in range(self._max_redirects + 1):
            response = await self._send(method, url, {**own, **always})
            if response.status not in _REDIRECTS:
                return response, _host(url)
            # Reuses the connection if the answer is all there, else closes it.
            response.release()
            target = self._target(url, response.headers.get("Location"))
            if target.origin() != url.origin():
                # What the caller sends is meant for the origin it named.
                own = {}
            url = target
        raise TooManyRedirects(
            f"The source at {_host(url)} redirects more than {self._max_redirects} times."
        )

    async def _send(self, method: str, url: URL, headers: Mapping[str, str]) -> _Response:
        try:
            async with asyncio.timeout(self._head_timeout):
                try:
                    return await self._request(method, url, headers)
                except aiohttp.ClientResponseError as exc:
                    if not isinstance(exc.__cause__, Leftover):
                        raise
                with on_a_new_connection():
                    return await self._request(method, url, headers)
        except REQUEST_FAULTS as exc:
            raise translated(exc, _host(url)) from telling_no_url(exc)

    async def _request(self, method: str, url: URL, headers: Mapping[str, str]) -> _Response:
        response = await self._session.request(method, url, headers=headers, allow_redirects=False)
        return cast("_Response", response)

    def _target(self, url: URL, location: str | None) -> URL:
        """Resolve a ``Location`` (RFC 9110 §10.2.2); credentials in it are dropped.

        From https to http is refused: what was asked for in confidence would
        go, and come back, in the clear.
        """
        if not location:
            raise SourceProtocolError(f"The source at {_host(url)} redirects to nowhere.")
        try:
            joined = urljoin(str(url), location.strip().replace(" ", "%20"))
        except ValueError:  # its message may quote a signed address
            raise SourceProtocolError(
                f"The source at {_host(url)} redirects to what is no proper URL."
            ) from None
        target = self._guard.check_url(joined, max_length=MAX_HEADER)
        if url.scheme == "https" and target.scheme == "http":
            raise SourceProtocolError(
                f"The source at {_host(url)} redirects from https to http, which is refused."
            )
        return target.with_user(None)


def _host(url: URL) -> str:
    """The host as it goes over the wire: not every name that does can be shown decoded."""
    return url.raw_host or ""


def _is_callers(name: str) -> bool:
    return name.lower() not in _OWN_HEADERS


def _range_headers(offset: int, validator: str | None) -> dict[str, str]:
    if offset <= 0:
        return {}
    condition = {} if validator is None else {"If-Range": validator}
    return {"Range": f"bytes={offset}-", **condition}


def _with_basic_auth(own: Mapping[str, str], url: URL) -> dict[str, str]:
    """Turn the URL's credentials into a header; one that is given wins."""
    if any(name.lower() == "authorization" for name in own):
        return dict(own)
    return {**own, "Authorization": basic_auth(url)}


def basic_auth(url: URL) -> str:
    """A URL's credentials as ``Authorization`` has them (RFC 7617). ``SourceProtocolError``."""
    try:
        return aiohttp.encode_basic_auth(url.user or "", url.password or "")
    except ValueError as exc:
        raise SourceProtocolError("The user name in the URL holds a colon.") from exc


def _body(response: _Response, host: str, offset: int, validator: str | None) -> HttpBody:
    """Judge an answer; return its body if it brings what was asked for."""
    if response.status in _WHOLE:
        return HttpBody(response, host, None)
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        raise refusal(response.status, response.headers, host, ranged=offset > 0)
    if offset <= 0:
        raise SourceProtocolError(f"The source at {host} sent a part where all was asked for.")
    part = read.content_range(response.headers)
    if part is None or part.start != offset:
        raise SourceChanged(f"The source at {host} sent another part than was asked for.")
    if validator is not None and not read.same_version(response.headers, validator):
        raise SourceChanged(f"The file at {host} has changed since it was begun.")
    return HttpBody(response, host, part)
