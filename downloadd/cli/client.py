"""The HTTP API from the caller's side (SPEC §3, §5): make a job, watch it, fetch its archive.

Trouble with the connection is ``ServerUnreachable``, an error answer is
``ServerRefused`` with the sentence of the answer; nothing of aiohttp comes out.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from downloadd import __version__
from downloadd.errors import CommandError, ServerRefused, ServerUnreachable
from downloadd.model import EventType
from downloadd.urls import redact

#: Seconds without an answer, or without a byte, until a connection counts as lost.
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
#: The server sends a comment every 15 s, so three were missed.
EVENT_SECONDS = 45.0
BODY_SECONDS = 60.0
#: Between two tries to get an event stream back.
RECONNECT_SECONDS = 1.0
#: For how long that is tried.
PATIENCE_SECONDS = 120.0

#: Bytes that are read from a socket at once.
_READ_BUFFER = 256 * 1024

_LAST = frozenset(kind.value for kind in EventType if kind.terminal)

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerEvent:
    """One event of a job's stream."""

    type: str
    data: Mapping[str, Any]


class ArchiveBody:
    """An archive, or the rest of one, whose headers have arrived."""

    def __init__(self, response: aiohttp.ClientResponse, start: int) -> None:
        #: Where in the archive the body begins.
        self.start = start
        #: For ``If-Range``; None where there is none that is strong.
        self.etag = _strong_etag(response)
        self._content = response.content

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they come; read inside the context that gave the body."""
        return self._content.iter_any()


class ApiClient:
    """One server's API."""

    def __init__(self, session: aiohttp.ClientSession, base_url: URL) -> None:
        self._session = session
        self._base_url = base_url
        #: How messages name the server.
        self.name = redact(str(base_url))

    @classmethod
    @asynccontextmanager
    async def open(
        cls, base_url: URL, *, proxies: bool = False, token: str | None = None
    ) -> AsyncIterator[ApiClient]:
        """A client for the length of the context; ``proxies``: as the environment has them.

        ``token`` is an API key or a token of this server's. It goes nowhere
        else: aiohttp drops the header where an archive lies at another origin.
        """
        credential = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(
            headers={"User-Agent": f"downloadd/{__version__}", **credential},
            trust_env=proxies,
            read_bufsize=_READ_BUFFER,
        ) as session:
            yield cls(session, base_url)

    async def initiate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a job; return its resource. ``ServerRefused``, ``ServerUnreachable``."""
        return await self._json("POST", "v1/download/initiate", json=body)

    async def job(self, job_id: str) -> dict[str, Any]:
        """The job resource with all its files. ``ServerRefused``, ``ServerUnreachable``."""
        return await self._json("GET", f"v1/download/status/{job_id}", params={"files": "true"})

    async def cancel(self, job_id: str) -> None:
        """Cancel a job. ``ServerRefused`` when it has ended, ``ServerUnreachable``."""
        await self._json("DELETE", f"v1/download/{job_id}")

    async def events(self, job_id: str) -> AsyncGenerator[ServerEvent]:
        """Yield the job's events until its last one.

        A stream that breaks off is taken up again where it stopped. Raises
        ``ServerUnreachable`` when that has not worked for two minutes,
        ``ServerRefused``.
        """
        place = _Place()
        while not place.over:
            try:
                async with aclosing(self._stream(job_id, place)) as stream:
                    async for event in stream:
                        yield event
            except CommandError as exc:
                if not exc.transient or place.lost_for() > PATIENCE_SECONDS:
                    raise
            if not place.over:
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _stream(self, job_id: str, place: _Place) -> AsyncGenerator[ServerEvent]:
        headers = {"Accept": "text/event-stream"}
        if place.last_id:
            headers["Last-Event-ID"] = place.last_id
        path = f"v1/download/subscribe/{job_id}"
        async with self._answer("GET", path, headers=headers, idle=EVENT_SECONDS) as response:
            if response.status == HTTPStatus.NO_CONTENT:
                place.over = True
                return
            if response.content_type != "text/event-stream":
                raise ServerRefused(
                    f"{self.name} does not answer as a downloadd server would.",
                    status=response.status,
                    code="unexpected_answer",
                )
            place.found()
            async for event in _parsed(response.content.iter_any(), place):
                yield event
                if place.over:
                    return

    @asynccontextmanager
    async def archive(
        self,
        job_id: str,
        *,
        offset: int = 0,
        etag: str | None = None,
    ) -> AsyncIterator[ArchiveBody]:
        """The archive of a completed job from ``offset`` on, or all of it: see ``start``.

        Raises ``ServerRefused``, ``ServerUnreachable``, the latter also while
        the body is read.
        """
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if etag is not None:
                headers["If-Range"] = etag
        path = f"v1/download/{job_id}"
        async with self._answer("GET", path, headers=headers, idle=BODY_SECONDS) as response:
            yield ArchiveBody(response, _start(response))

    async def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with self._answer(method, path, **options) as response:
            try:
                answer = await response.json()
            except (ValueError, aiohttp.ContentTypeError) as exc:
                raise _strange(response) from exc
        if not isinstance(answer, dict):
            raise _strange(response)
        return answer

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        idle: float = ANSWER_SECONDS,
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; ``idle`` are the seconds that may pass without a byte."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=idle)
        url = self._base_url / path
        try:
            async with self._session.request(method, url, timeout=timeout, **options) as response:
                if response.status >= HTTPStatus.BAD_REQUEST:
                    raise await _refusal(response)
                yield response
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise ServerUnreachable(f"{self.name}: {_reason(exc)}.") from exc


class _Place:
    """Where a reader of an event stream is, over all its connections."""

    def __init__(self) -> None:
        self.last_id = ""
        #: The last event was seen.
        self.over = False
        self._lost_since: float | None = None

    def found(self) -> None:
        """A connection stands."""
        self._lost_since = None

    def lost_for(self) -> float:
        """Seconds since the last connection broke off; counted from the first call."""
        now = asyncio.get_running_loop().time()
        if self._lost_since is None:
            self._lost_since = now
        return now - self._lost_since


async def _parsed(chunks: AsyncIterator[bytes], place: _Place) -> AsyncGenerator[ServerEvent]:
    """Read the event stream format (WHATWG HTML §9.2.6) as the server writes it.

    Lines end with LF or CRLF, data is one line. The bytes are split here,
    because a job's whole state can be longer than aiohttp's ``readline`` takes.
    """
    fields: dict[str, str] = {}
    async for line in _lines(chunks):
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            # Not before: an event that breaks off half-way has to come again.
            place.last_id = fields.get("id", place.last_id)
            place.over = fields.get("event") in _LAST
            yield ServerEvent(type=fields.get("event", "message"), data=_object(fields["data"]))
            fields = {}


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    pieces: list[bytes] = []
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        for piece in others:
            yield b"".join(pieces).rstrip(b"\r").decode("utf-8", "replace")
            pieces = [piece]


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _start(response: aiohttp.ClientResponse) -> int:
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None:
        raise _strange(response)
    return int(found[1])


def _strong_etag(response: aiohttp.ClientResponse) -> str | None:
    etag = response.headers.get("ETag")
    return etag if etag and etag.startswith('"') else None


async def _refusal(response: aiohttp.ClientResponse) -> ServerRefused:
    """The error that an answer tells of: the API's own sentence, else the status line."""
    answer = _object((await response.content.read(1 << 20)).decode("utf-8", "replace"))
    message, details = answer.get("message"), answer.get("details")
    if not isinstance(message, str):
        return _strange(response)
    return ServerRefused(
        message,
        status=response.status,
        code=str(answer.get("code", "http_error")),
        details=details if isinstance(details, dict) else None,
    )


def _strange(response: aiohttp.ClientResponse) -> ServerRefused:
    # The origin alone: what follows it may be a signed link.
    return ServerRefused(
        f"{response.url.origin()} answered {response.status} {response.reason}, "
        "and not as a downloadd server would.",
        status=response.status,
        code="unexpected_answer",
    )


def _reason(exc: Exception) -> str:
    match exc:
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientConnectorError():
            return exc.os_error.strerror or str(exc.os_error)
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | ConnectionError():
            return "the connection broke off"
        case _:
            return str(exc) or type(exc).__name__
