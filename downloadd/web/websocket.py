"""WebSockets (RFC 6455): the events of a job, or of several, as messages (SPEC §5).

Each connection has one reader, which hears pings and the client's end, and a
sender for each job that it follows. A sender waits for a client that takes
nothing, and gives it up in the end; nobody else waits.

What ends early, by the time limit or with the server, is closed with 1012
("service restart") and a reason that says how to go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any

import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web
from prometheus_client import Gauge

from downloadd.errors import DownloaddError
from downloadd.model import Event, iso8601
from downloadd.web.body import STRICT_JSON
from downloadd.web.handshake import check_handshake
from downloadd.web.naming import FOUR
from downloadd.web.sse import LIMIT_SECONDS, PING_SECONDS, STALL_SECONDS, abort_if_stalled
from downloadd.web.token_bucket import TokenBucket
from downloadd.web.views import Case, dumps, snake

#: The largest message that a client may send.
MAX_MESSAGE_BYTES = 4096
#: Messages that a client may send at once, pings and pongs among them, and each second.
BURST_MESSAGES, MESSAGES_PER_SECOND = 100, 20.0
#: Seconds that a client may take to agree to the end.
_CLOSE_SECONDS = 2.0

_log = structlog.get_logger(__name__)

#: At most 123 bytes (RFC 6455 §5.5).
_REASON = b"Connect again, with the id of the last message as lastEventId."

#: Hears an object that a client has sent.
OnMessage = Callable[["Socket", Mapping[str, Any]], Awaitable[None]]


class _Response(web.WebSocketResponse):
    """Bounds the time that an end takes: aiohttp limits only the wait for the client's answer.

    It begins one by itself where a client breaks the protocol.
    """

    def __init__(self, *, stall: float, heartbeat: float) -> None:
        super().__init__(
            timeout=_CLOSE_SECONDS,
            # aiohttp would answer pings, and pass over pongs, for as long as any are there.
            autoping=False,
            heartbeat=heartbeat,
            max_msg_size=MAX_MESSAGE_BYTES,
            # Messages are small, and a compressor for each connection is not.
            compress=False,
        )
        self._stall = stall

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        async with asyncio.timeout(self._stall):
            return await super().close(code=code, message=message, drain=drain)


class Socket:
    """One connection."""

    def __init__(self, response: web.WebSocketResponse, *, stall: float) -> None:
        self._response = response
        self._stall = stall
        #: The jobs that it follows.
        self.senders: dict[str, asyncio.Task[None]] = {}
        #: Set when the connection is to end early.
        self.ending = asyncio.Event()
        self._lock = asyncio.Lock()

    async def send(self, text: str) -> None:
        """Send a message. ``TimeoutError`` when the client has taken nothing for too long."""
        async with asyncio.timeout(self._stall), self._lock:
            await self._response.send_str(text)

    async def pong(self, data: bytes) -> None:
        """Answer a ping. ``TimeoutError`` as ``send``."""
        async with asyncio.timeout(self._stall), self._lock:
            await self._response.pong(data)

    async def close(self, code: int = WSCloseCode.OK, reason: bytes = b"") -> None:
        """End the connection, when the client has read what was sent or has had its time."""
        with suppress(TimeoutError):
            await self._response.close(code=code, message=reason)

    def follow(self, name: str, sending: Awaitable[None]) -> None:
        """Begin to send what becomes of a job, in place of what was sent of it before."""
        if (earlier := self.senders.pop(name, None)) is not None:
            earlier.cancel()
        self.senders[name] = asyncio.ensure_future(sending)


class Sockets:
    """All WebSockets that are open in this process."""

    def __init__(
        self,
        gauge: Gauge,
        *,
        limit: float = LIMIT_SECONDS,
        heartbeat: float = PING_SECONDS,
        stall: float = STALL_SECONDS,
    ) -> None:
        """``gauge`` counts the open ones; the others are seconds."""
        self._gauge = gauge
        self._limit = limit
        self._heartbeat = heartbeat
        self._stall = stall
        self._open: set[Socket] = set()

    async def tell(
        self, request: web.Request, events: AsyncGenerator[Event], case: Case, *, draining: bool
    ) -> web.StreamResponse:
        """Answer a request with a job's events; the connection ends with the last one.

        ``events`` is closed in any case.
        """
        async with aclosing(events):
            return await self._run(
                request,
                _ignore,
                lambda socket: socket.follow("", _send_events(socket, events, case)),
                alone=True,
                draining=draining,
            )

    async def converse(
        self, request: web.Request, on_message: OnMessage, *, draining: bool
    ) -> web.StreamResponse:
        """Answer a request with what ``on_message`` makes the socket follow, until it is closed."""
        return await self._run(request, on_message, lambda _: None, alone=False, draining=draining)

    async def _run(
        self,
        request: web.Request,
        on_message: OnMessage,
        begin: Callable[[Socket], None],
        *,
        alone: bool,
        draining: bool,
    ) -> web.StreamResponse:
        check_handshake(request)
        response = _Response(stall=self._stall, heartbeat=self._heartbeat)
        await response.prepare(request)
        socket = Socket(response, stall=self._stall)
        if draining:
            socket.ending.set()
        self._open.add(socket)
        self._gauge.inc()
        reader = asyncio.create_task(_read(socket, response, on_message))
        try:
            begin(socket)
            in_order = await self._ended(socket, reader, alone=alone)
            # While somebody reads, aiohttp would not wait for the client's answer.
            reader.cancel()
            await asyncio.wait({reader})
            if in_order:
                await socket.close()
            else:
                abort_if_stalled(request)  # nobody would read the reason
                await socket.close(WSCloseCode.SERVICE_RESTART, _REASON)
        finally:
            # Also of one that missed its heartbeat: aiohttp has closed its side,
            # which lasts until the client has read all.
            abort_if_stalled(request)
            self._open.discard(socket)
            self._gauge.dec()
            tasks = {reader, *socket.senders.values()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return response

    async def _ended(self, socket: Socket, reader: asyncio.Task[None], *, alone: bool) -> bool:
        """Wait for the end; whether it is in order."""
        ending = asyncio.create_task(socket.ending.wait())
        try:
            async with asyncio.timeout(self._limit):
                senders = set(socket.senders.values()) if alone else set()
                await asyncio.wait({reader, ending, *senders}, return_when=asyncio.FIRST_COMPLETED)
                # A sender that cannot go on says so by its result.
                return not ending.done() and all(
                    task.exception() is None for task in senders if task.done()
                )
        except TimeoutError:
            return False
        finally:
            ending.cancel()

    def end_all(self) -> None:
        """End every connection, soon."""
        for socket in self._open:
            socket.ending.set()

    def __len__(self) -> int:
        return len(self._open)


async def _ignore(_: Socket, __: Mapping[str, Any]) -> None:
    """Nothing that a client says matters but pings."""


async def _read(socket: Socket, response: web.WebSocketResponse, on_message: OnMessage) -> None:
    """Hear the client until it is gone, or sends what it should not; aiohttp misses its pongs."""
    allowance = TokenBucket(
        burst=BURST_MESSAGES, per_second=MESSAGES_PER_SECOND, now=time.monotonic()
    )
    try:
        async for message in response:
            if not allowance.take(1, time.monotonic()):
                await socket.close(WSCloseCode.POLICY_VIOLATION, b"Send fewer messages.")
                return
            await _hear(socket, message, on_message)
    except (ConnectionError, TimeoutError):
        return


async def _hear(socket: Socket, message: WSMessage, on_message: OnMessage) -> None:
    if message.type is WSMsgType.PING:
        await socket.pong(message.data)
    elif message.type is WSMsgType.BINARY:
        await socket.close(WSCloseCode.UNSUPPORTED_DATA, b"Send JSON as text.")
    elif message.type is WSMsgType.TEXT:
        try:
            said = STRICT_JSON.decode(message.data)
        except (ValueError, RecursionError):
            await socket.close(WSCloseCode.INVALID_TEXT, b"Send JSON.")
            return
        if isinstance(said, dict) and said.get("type") == "ping":
            await socket.send(dumps({"type": "pong"}))
        elif isinstance(said, dict):
            await on_message(socket, said)


async def _send_events(socket: Socket, events: AsyncGenerator[Event], case: Case) -> None:
    try:
        async for event in events:
            await socket.send(encode(event, case))
    except DownloaddError as exc:
        _log.warning("websocket.broke_off", reason=exc.message)
        raise


def encode(event: Event, case: Case = Case.CAMEL) -> str:
    """One event as a message, its data in this case.

    Times to go are in milliseconds, as its clients (seeds/004) have it, and
    the three counts that they show stand beside the canonical ones.
    """
    data = dict(event.data)
    if (remaining := data.get("estimatedTimeRemaining")) is not None:
        data["estimatedTimeRemaining"] = remaining * 1000
    if "filesCompleted" in data:
        data |= {
            "current": data["filesCompleted"] + data.get("filesFailed", 0),
            "total": data["totalFiles"],
            "percentage": data["progress"],
        }
    message: dict[str, Any] = {
        "type": FOUR.get(event.type, event.type.value),
        "data": snake(data) if case is Case.SNAKE else data,
        "timestamp": _written(event),
    }
    if event.id is not None:
        message["id"] = event.id
    return dumps(message)


def _written(event: Event) -> str:
    """When it was written: its place in the stream begins with that, in milliseconds."""
    milliseconds = int((event.id or "0").partition("-")[0])
    if milliseconds:
        return iso8601(milliseconds / 1000)
    # Not of the stream: a whole job that had ended before, or the end of one that is lost.
    return str(event.data.get("updatedAt") or iso8601(time.time()))
