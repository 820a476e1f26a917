"""Calls to receivers of webhooks: ``ports.Caller`` over aiohttp. SPEC §5, Standard Webhooks 1.0."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Self

import aiohttp
from standardwebhooks import Webhook
from yarl import URL

from downloadd.errors import AddressBlocked, DownloaddError
from downloadd.network import headers as read
from downloadd.network.dial import GuardedConnector
from downloadd.network.faults import READ_FAULTS, REQUEST_FAULTS, translated
from downloadd.network.fetch import basic_auth
from downloadd.network.guard import AddressGuard
from downloadd.ports import Answer
from downloadd.telemetry.tracing import Tracing

#: Bytes of an answer that are read, and the seconds for it: its status says all.
_READ, _READ_TIME = 16 * 1024, 1.0


class WebhookCaller:
    """``ports.Caller``. Make it with ``open_session``."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        guard: AddressGuard,
        *,
        secret: str,
        timeout: float,
        tracing: Tracing | None = None,
    ) -> None:
        self._session = session
        self._guard = guard
        self._signer = Webhook(secret)
        self._timeout = timeout
        self._tracing = tracing or Tracing()

    @classmethod
    @asynccontextmanager
    async def open_session(
        cls,
        guard: AddressGuard,
        *,
        secret: str,
        timeout: float,
        tracing: Tracing | None = None,
    ) -> AsyncIterator[Self]:
        """Give a caller whose connections are closed on leaving.

        ``secret`` is "whsec_" and base64; ``timeout`` seconds are what a
        request may take, from the name's resolution to the answer's head.
        """
        async with aiohttp.ClientSession(
            # A POST is not sent again where a connection that was kept turns out to be dead.
            connector=GuardedConnector(guard, reuse=False),
            headers={
                "User-Agent": "downloadd",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
            },
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        ) as session:
            yield cls(session, guard, secret=secret, timeout=timeout, tracing=tracing)

    async def call(self, url: str, message_id: str, body: bytes) -> Answer:
        """POST a message, signed with the time of now. Redirects are not followed."""
        try:
            target = self._guard.check_url(url)
            headers = self._signed(message_id, body) | self._tracing.outgoing()
            if "@" in target.raw_authority:
                headers["Authorization"] = basic_auth(target)
                target = target.with_user(None)
        except DownloaddError as exc:
            return Answer(error=_sentence(exc))
        return await self._post(target, headers, body)

    def _signed(self, message_id: str, body: bytes) -> dict[str, str]:
        now = int(time.time())
        moment = datetime.fromtimestamp(now, UTC)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": self._signer.sign(message_id, moment, body.decode()),
        }

    async def _post(self, url: URL, headers: Mapping[str, str], body: bytes) -> Answer:
        host = url.raw_host or ""
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._session.post(
                    url, headers=headers, data=body, allow_redirects=False
                )
        except TimeoutError:
            return Answer(error=f"The receiver at {host} took longer than {self._timeout:g} s.")
        except DownloaddError as exc:  # the resolver's, of a name that leads to a blocked address
            return Answer(error=_sentence(exc))
        except REQUEST_FAULTS as exc:
            return Answer(error=_sentence(translated(exc, host, peer="receiver")))
        try:
            await _drain(response)
        finally:
            response.close()
        return _judged(response, host)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Let the receiver finish what it says, if that is little and comes soon."""
    with suppress(TimeoutError, *READ_FAULTS):
        async with asyncio.timeout(_READ_TIME):
            left = _READ
            while left > 0 and (chunk := await response.content.read(left)):
                left -= len(chunk)


def _judged(response: aiohttp.ClientResponse, host: str) -> Answer:
    status = response.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Answer(status=status)
    why = "; redirects are not followed" if status < HTTPStatus.BAD_REQUEST else ""
    return Answer(
        status=status,
        error=f"The receiver at {host} answered {status}{why}.",
        retry_after=read.retry_after(response.headers, time.time()),
    )


def _sentence(error: DownloaddError) -> str:
    if isinstance(error, AddressBlocked):
        return "The receiver's address may not be called."
    return error.message
