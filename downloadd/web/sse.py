"""Server-Sent Events (WHATWG HTML §9.2): a job's events as they come, until it has ended.

aiohttp leaves a handler running when its client goes away and nothing is
written to it, and lets it hold up a shutdown. So every open stream is
registered here, and ends for whichever reason comes first: the last event,
its time limit, a client that is gone, or the server's own end.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import structlog
from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp_sse import EventSourceResponse
from prometheus_client import Gauge

from downloadd.errors import DownloaddError
from downloadd.model import Event
from downloadd.web.naming import CANONICAL, Names
from downloadd.web.views import Case, snake

#: How long a stream may last; the client reconnects and loses nothing.
LIMIT_SECONDS = 600.0
#: Between comments that keep proxies from taking a quiet stream for a dead one.
PING_SECONDS = 15.0
#: A client that has not taken a byte for so long is cut off.
STALL_SECONDS = 30.0
#: How soon the handler of a client that is gone ends.
SWEEP_SECONDS = 0.5
#: What clients wait before they reconnect.
_RETRY = b"retry: 3000\r\n\r\n"

_log = structlog.get_logger(__name__)

_EVENT_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
#: Redis counts in 64 bits.
_MAX_NUMBER = 2**64 - 1


class Streams:
    """All event streams that are open in this process."""

    def __init__(
        self,
        gauge: Gauge,
        *,
        limit: float = LIMIT_SECONDS,
        ping: float = PING_SECONDS,
    ) -> None:
        """``gauge`` counts the open streams; ``limit`` and ``ping`` are seconds."""
        self._gauge = gauge
        self._limit = limit
        self._ping = ping
        self._open: dict[asyncio.Timeout, web.Request] = {}
        self._last: Event | None = None
        #: The last event's encodings, by the names' identity and the case.
        self._encodings: dict[tuple[int, Case], bytes] = {}

    async def run(
        self,
        request: web.Request,
        events: AsyncGenerator[Event],
        names: Names,
        case: Case = Case.CAMEL,
    ) -> web.StreamResponse:
        """Answer a request with events until the last one, or until something ends it early.

        An early end is no error: the client's next ``Last-Event-ID`` goes on
        where this stream stopped. ``events`` is closed in any case. Raises
        ``ConnectionError`` where nothing could be begun: the client is gone.
        """
        response = EventSourceResponse(ping_interval=self._ping, send_timeout=STALL_SECONDS)
        response.headers["Cache-Control"] = "no-cache, no-transform"
        # Says keep-alive whatever was asked for.
        del response.headers["Connection"]
        if request.version < HttpVersion11:
            # Only the connection's end ends a body without a length or chunks.
            response.force_close()
        self._gauge.inc()
        try:
            async with aclosing(events), self.held(request, self._limit):
                await self._write_all(request, response, events, names, case)
        except ConnectionError:
            # aiohttp would begin an answer that has not begun.
            if not response.prepared:
                raise
        except TimeoutError:
            # The client is gone or stalled; or the limit, reached or set to now.
            pass
        except DownloaddError as exc:
            _log.warning("sse.broke_off", reason=exc.message)
        finally:
            self._gauge.dec()
            abort_if_stalled(request)
        return response

    async def _write_all(
        self,
        request: web.Request,
        response: EventSourceResponse,
        events: AsyncGenerator[Event],
        names: Names,
        case: Case,
    ) -> None:
        if request.transport is None:
            # aiohttp-sse takes it for granted that there is one.
            raise ConnectionResetError("the client is gone")
        await response.prepare(request)
        async with response:
            await response.write(_RETRY)
            async for event in events:
                await response.write(self._encoded(event, names, case))

    @asynccontextmanager
    async def held(self, request: web.Request, seconds: float) -> AsyncIterator[None]:
        """Hold a request open for so long at most.

        Raises ``TimeoutError`` then, or sooner when its client is gone or the server ends.
        """
        async with asyncio.timeout(seconds) as limit:
            self._open[limit] = request
            try:
                yield
            finally:
                self._open.pop(limit, None)

    def _encoded(self, event: Event, names: Names, case: Case) -> bytes:
        # Subscribers of one job are woken one after the other with the same
        # event: it is formatted for the first of each naming.
        if self._last is not event:
            self._last, self._encodings = event, {}
        key = (id(names), case)
        if key not in self._encodings:
            self._encodings[key] = encode(event, names, case)
        return self._encodings[key]

    def end_all(self) -> None:
        """End every stream, soon and in order."""
        for limit in list(self._open):
            _end(limit)

    async def sweep(self) -> None:
        """For ever: end the streams whose clients are gone."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for limit, request in list(self._open.items()):
                transport = request.transport
                if transport is None or transport.is_closing():
                    _end(limit)

    def __len__(self) -> int:
        return len(self._open)


def _end(limit: asyncio.Timeout) -> None:
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())


def abort_if_stalled(request: web.Request) -> None:
    """Cut a client off that has not read all; for when nothing more is to be said."""
    # The end of the answer would wait behind bytes that nobody reads.
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size() > 0:
        transport.abort()


def encode(event: Event, names: Names = CANONICAL, case: Case = Case.CAMEL) -> bytes:
    """One event as it goes over the wire; JSON has no line breaks to take care of."""
    told = snake(event.data) if case is Case.SNAKE else event.data
    data = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    place = f"id: {event.id}\r\n" if event.id is not None else ""
    return f"{place}event: {names.get(event.type, event.type)}\r\ndata: {data}\r\n\r\n".encode()


def last_event_id(request: web.Request, cursor: str | None) -> str | None:
    """Where the client left off in a stream whose last id is ``cursor``; None for a new one.

    The header that browsers send on reconnecting wins over the query, which
    they send each time. What is no id of ours, or none yet, makes a new
    subscriber: it learns the job's state from the ``status`` event.
    """
    given = request.headers.get("Last-Event-ID") or request.query.get("lastEventId", "")
    if not _EVENT_ID.fullmatch(given) or _place(given) > _place(cursor or given):
        return None
    return given if max(_place(given)) <= _MAX_NUMBER else None


def _place(event_id: str) -> tuple[int, ...]:
    return tuple(int(number) for number in event_id.split("-"))
