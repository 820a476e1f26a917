"""The data path to S3: signed requests with streamed bodies, tried again when that helps."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from downloadd.errors import StorageCorrupt, StorageUnavailable
from downloadd.model import Record
from downloadd.objects import faults, signing
from downloadd.objects.bodies import verified
from downloadd.objects.meter import Meter
from downloadd.ports import PartBody

#: Tries after the first one.
RETRIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply(Record):
    """The head of an answer."""

    status: int
    headers: Mapping[str, str]

    @property
    def etag(self) -> str:
        return self.headers.get("ETag", "").strip('"')


class _BodyPayload(aiohttp.Payload):
    """Streams a body as often as it is asked to, and knows why it ended.

    aiohttp writes bodies in a task of its own and wraps what goes wrong there:
    ``error`` is what the body itself raised, as against the connection.
    """

    def __init__(self, body: PartBody, stall: float) -> None:
        super().__init__(body)
        self._size = body.size
        self._stall = stall
        self._idle = asyncio.Event()
        self._idle.set()
        self.error: Exception | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("The bytes of an archive are not text.")

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._idle.clear()
        self.error = None
        try:
            async with contextlib.aclosing(verified(self._value)) as chunks:  # type: ignore[type-var]
                while chunk := await self._next(chunks):
                    async with asyncio.timeout(self._stall):
                        await writer.write(chunk)
        finally:
            self._idle.set()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        try:
            return await anext(chunks, b"")
        except Exception as exc:
            self.error = exc
            # An OSError of the body would look like one of the connection.
            raise RuntimeError("the body failed") from exc

    async def settled(self) -> None:
        """Wait until nobody reads the body any more; it is cancelled or at its end."""
        await self._idle.wait()


def backoff(first: float) -> Iterator[float]:
    """Seconds to wait before each further try: doubled each time, with jitter."""
    for attempt in range(RETRIES):
        yield first * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 (no secret)


class DataPath:
    """Signed requests to one bucket through one ``aiohttp`` session."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        credentials: Callable[[], Awaitable[Any]],
        *,
        region: str,
        bucket_url: str,
        stall: float,
        first_backoff: float,
        meter: Meter,
    ) -> None:
        self._session = session
        self._credentials = credentials
        self._region = region
        self._bucket_url = bucket_url
        self._stall = stall
        self._first_backoff = first_backoff
        self.meter = meter

    async def send(
        self,
        operation: str,
        method: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: PartBody | None = None,
    ) -> Reply:
        """Make a request until it succeeds or trying again makes no sense.

        Raises what ``faults`` says, or what the body raised.
        """
        for pause in (*backoff(self._first_backoff), None):
            payload = _BodyPayload(body, self._stall) if body is not None else None
            try:
                return await self._attempt(operation, method, key, query, headers or {}, payload)
            except (StorageUnavailable, StorageCorrupt):
                # Bytes damaged on the way may arrive the next time; a body
                # that is not what was announced stays so.
                if pause is None or _failed(payload):
                    raise
            await asyncio.sleep(pause)
            self.meter.retried(operation)
        raise AssertionError("unreachable")

    async def once(self, operation: str, method: str, key: str = "") -> Reply:
        """Make a request a single time."""
        return await self._attempt(operation, method, key, None, {}, None)

    async def _attempt(
        self,
        operation: str,
        method: str,
        key: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        payload: _BodyPayload | None,
    ) -> Reply:
        try:
            async with self.open(operation, method, key, query, headers, payload) as response:
                return Reply(status=response.status, headers=response.headers)
        except StorageUnavailable:
            if payload is not None and payload.error is not None:
                raise payload.error  # noqa: B904 (its own cause is the better one)
            raise
        finally:
            # A cancelled request leaves aiohttp's writing task behind for a
            # moment; the body's file must stay open until that has ended.
            if payload is not None:
                await payload.settled()

    @contextlib.asynccontextmanager
    async def open(
        self,
        operation: str,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        payload: _BodyPayload | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give an answer of the 2xx kind, its body unread; raise for any other."""
        url = signing.object_url(self._bucket_url, key, query)
        with (
            self.meter.request(operation, lambda: _failed(payload)) as attempt,
            faults.translated(operation),
        ):
            signed = signing.authorize(
                await self._credentials(), self._region, method, url, headers or {}
            )
            async with self._session.request(
                method, URL(url, encoded=True), headers=signed, data=payload, allow_redirects=False
            ) as response:
                if not 200 <= response.status < 300:
                    document = await _document(response)
                    raise faults.from_document(operation, response.status, document)
                attempt.answered()
                yield response


def _failed(payload: _BodyPayload | None) -> bool:
    return payload is not None and payload.error is not None


async def _document(response: aiohttp.ClientResponse) -> str:
    """Read what came with a refusal, as far as it can be an error document."""
    document = b""
    async for chunk in response.content.iter_any():
        document += chunk
        if len(document) >= faults.ERROR_BODY_LIMIT:
            break
    return document.decode("utf-8", "replace")
