"""The HTTP server below the application: it answers what never becomes a request.

aiohttp answers bytes that are no HTTP, and what fails outside of the
middleware, by itself: as plain text, with the offending line in the answer and
in the log, credentials and all. Here such answers have the form and the
headers of all others, and neither they nor the log repeat what was sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import structlog
from aiohttp import web, web_protocol
from aiohttp.http import HttpProcessingError, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from downloadd.web.errors import http_answer, internal_answer
from downloadd.web.framing import judging, last, request_factory
from downloadd.web.middleware.request_id import identify
from downloadd.web.requests import REQUEST_ID
from downloadd.web.token_bucket import TokenBucket

#: Longest line of a request's head, in bytes; it has 128 headers at most.
MAX_LINE_BYTES = 8190
#: Seconds that a request's head may take, and that a connection may be idle:
#: longer than proxies keep theirs.
HEAD_SECONDS, KEEPALIVE_SECONDS = 15.0, 75.0
#: Bytes that may wait for a client in this process; the kernel holds as many again, and more.
WAITING_BYTES = 16 * 1024
#: Seconds without reading after which a client makes room for others.
STALLED_SECONDS = 5.0
#: Bytes read at once: what a client sends in pieces of a few bytes costs a thousandfold. Who
#: sends more waits in line, and so many are read from in each turn of the event loop.
READ_BYTES, READS_PER_TURN = 4 * 1024, 8
#: Half of the bytes of a body that may wait to be read; requests that may wait for the one
#: before them.
BODY_BUFFER, QUEUED_REQUESTS = 32 * 1024, 2
#: Bytes after which it is no request any more: many times what a body may have.
MAX_REQUEST_BYTES = 32 * 1024 * 1024
#: Bytes that may come over a WebSocket at once, and each second. Messages, which are fewer,
#: are counted where they are heard; here is counted what never becomes one.
BURST_BYTES, BYTES_PER_SECOND = 1024 * 1024, 128 * 1024
#: Connections open at once: streams, and some more.
MAX_CONNECTIONS = 12_000

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)

_NOT_HTTP = "This is no proper HTTP/1.1 request."
_TOO_LONG = f"The address or a header is longer than {MAX_LINE_BYTES:,} bytes."

_log = structlog.get_logger(__name__)

# aiohttp's 32, with a body each, would be megabytes of every client; there is no argument for it.
web_protocol.MAX_MSG_QUEUE_SIZE = QUEUED_REQUESTS


class Runner(web.AppRunner):
    """Runs an application over connections of ours."""

    def __init__(
        self,
        app: web.Application,
        *,
        shutdown_timeout: float,
        on_refusal: Callable[[str, int], None] = lambda *_: None,
        head_seconds: float = HEAD_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        """A request's head has to come within ``head_seconds`` of its first byte.

        Beyond ``max_connections`` the one that has waited longest for a head
        makes room, or else one whose client does not take its answer: clients
        that do nothing do not keep out those that do. ``on_refusal`` is told
        the method, as far as there is one, and the status of what is refused
        here and never gets to the application.
        """
        super().__init__(
            app,
            access_log=None,
            shutdown_timeout=shutdown_timeout,
            keepalive_timeout=KEEPALIVE_SECONDS,
            read_bufsize=BODY_BUFFER,
        )
        self._head_seconds = head_seconds
        self._max_connections = max_connections
        self._on_refusal = on_refusal

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        server = _Server(
            judging(made.request_handler, self._on_refusal),
            request_factory=request_factory(made.request_factory),
            **self._kwargs,
        )
        server.head_seconds = self._head_seconds
        server.max_connections = self._max_connections
        server.on_refusal = self._on_refusal
        return server


class _Server(web.Server):
    head_seconds = HEAD_SECONDS
    max_connections = MAX_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_refusal: Callable[[str, int], None] = lambda *_: None
        #: Those of which there is more to read.
        self._line: deque[_Reader] = deque()

    def stand_in_line(self, reader: _Reader) -> None:
        """Let it read on when it has its turn."""
        self._line.append(reader)
        if len(self._line) == 1:
            self._loop.call_soon(self._next_in_line)

    def _next_in_line(self) -> None:
        for _ in range(min(READS_PER_TURN, len(self._line))):
            self._line.popleft().read_on()
        if self._line:
            self._loop.call_soon(self._next_in_line)

    def make_room(self) -> bool:
        """Whether there is room for one more connection, made where there was none."""
        if len(self._connections) < self.max_connections:
            return True
        ours = [it for it in self._connections if isinstance(it, _Connection)]
        waiting = [it for it in ours if it.waiting]
        # Those first that never sent a request; the oldest stand first.
        idle = (
            [it for it in waiting if not it.served]
            or waiting
            or [it for it in ours if it.stalled]
            or [it for it in ours if it.closing]
        )
        for connection in idle[: max(1, self.max_connections // 100)]:
            connection.drop()
            # Not when its task has ended, which is later than others come.
            self._connections.pop(connection, None)
        return bool(idle)

    def __call__(self) -> asyncio.BaseProtocol:  # type: ignore[override]
        connection = _Connection(
            self,
            loop=self._loop,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            # No body is taken that is compressed, and none is to grow on the way.
            auto_decompress=False,
            **self._kwargs,
        )
        return _Reader(connection, self)


#: What was read last, on any connection: it is taken out at once.
_READ = memoryview(bytearray(READ_BYTES))


class _Reader(asyncio.BufferedProtocol):
    """Reads little at once for a connection, and lets others have their turn in between.

    uvloop would read 256 KB for up to 32 times on end, and one client after
    the other, which in pieces of a few bytes are seconds of work.
    """

    __slots__ = ("_connection", "_server", "_transport")

    def __init__(self, connection: _Connection, server: _Server) -> None:
        self._connection = connection
        self._server = server
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connection.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._transport = None
        self._connection.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ

    def buffer_updated(self, nbytes: int) -> None:
        connection, transport = self._connection, self._transport
        connection.data_received(bytes(_READ[:nbytes]))
        if nbytes == READ_BYTES and transport is not None and not transport.is_closing():
            connection.in_line = True
            transport.pause_reading()
            self._server.stand_in_line(self)

    def read_on(self) -> None:
        """Read again, unless aiohttp wants no more for now, and will say when it does."""
        connection, transport = self._connection, self._transport
        connection.in_line = False
        if transport is not None and not transport.is_closing() and not connection.held:
            transport.resume_reading()

    def eof_received(self) -> None:
        self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()


class _Connection(web.RequestHandler):
    __slots__ = ("_allowance", "_head_timer", "_paused_at", "_server", "_since_head", "in_line")

    def __init__(self, server: _Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._head_timer: asyncio.TimerHandle | None = None
        self._paused_at: float | None = None
        #: Whether it waits for its turn to be read from.
        self.in_line = False
        #: Bytes since the last head was whole.
        self._since_head = 0
        #: Of a connection that has become a WebSocket.
        self._allowance: TokenBucket | None = None

    @property
    def served(self) -> bool:
        """Whether a request came over it."""
        return self._request_count > 0

    @property
    def waiting(self) -> bool:
        """Whether it waits for a request's head."""
        return not self.served or (self._waiter is not None and not self._waiter.done())

    @property
    def held(self) -> bool:
        """Whether aiohttp wants to read no more for now."""
        return self._reading_paused or self._buffer_paused

    @property
    def closing(self) -> bool:
        """Whether nothing more is read, and what is left is being sent."""
        return self.transport is not None and self.transport.is_closing()

    @property
    def stalled(self) -> bool:
        """Whether its client has not taken what was sent for some time."""
        paused_at = self._paused_at
        return paused_at is not None and self._loop.time() - paused_at >= STALLED_SECONDS

    def pause_writing(self) -> None:
        super().pause_writing()
        self._paused_at = self._loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._paused_at = None

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls it for each chunk that is taken, and parses nothing anew each time.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _resume_transport_reading(self) -> None:
        if not self.in_line:
            super()._resume_transport_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._server.make_room():
            cast("asyncio.Transport", transport).write(_FULL)
            self._server.on_refusal("", 503)
            transport.close()
            self._force_close = True
            return
        cast("asyncio.Transport", transport).set_write_buffer_limits(high=WAITING_BYTES)
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def drop(self) -> None:
        """End it at once, without a word."""
        if self.transport is not None:
            self.transport.abort()

    def _await_head(self) -> None:
        if self._head_timer is None:
            seconds = self._server.head_seconds
            self._head_timer = self._loop.call_later(seconds, self._give_up_head)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up_head(self) -> None:
        self._head_timer = None
        if self.waiting:
            self.drop()

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        self._since_head = self._since_head + len(data) if self._request_count == before else 0
        if self._upgraded and not self._is_moderate(len(data)):
            self._refuse("too much over a WebSocket")
            return
        if not self._upgraded and self._since_head > MAX_REQUEST_BYTES:
            self._refuse("a request without an end")
            return
        if not self.waiting:
            self._forget_head()
        elif data:
            self._await_head()
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        # What came is no HTTP; where it was to be the rest of a body, aiohttp
        # would let the handler wait for that.
        request = self._current_request
        if request is not None and not request.content.is_eof():
            request.content.set_exception(web.RequestPayloadError())

    def _is_moderate(self, size: int) -> bool:
        now = self._loop.time()
        if self._allowance is None:
            self._allowance = TokenBucket(burst=BURST_BYTES, per_second=BYTES_PER_SECOND, now=now)
        return self._allowance.take(size, now)

    def _refuse(self, problem: str) -> None:
        _log.info(
            "http.refused", problem=problem, remote=self.peername[0] if self.peername else None
        )
        self.drop()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what failed outside of the application; ``message`` would echo the request."""
        if isinstance(exc, ConnectionError):
            # The client is gone, which is no error; aiohttp closes what is left.
            raise exc
        identify(request)
        _tell(exc, remote=request.remote, requestId=request[REQUEST_ID])
        if request.writer.output_size > 0:
            raise ConnectionAbortedError("the answer cannot be finished")
        if isinstance(exc, HttpProcessingError):
            self._server.on_refusal(request.method, 400)
            text = _TOO_LONG if isinstance(exc, LineTooLong) else _NOT_HTTP
            return last(request, http_answer(request, web.HTTPBadRequest(text=text)))
        return last(request, internal_answer(request))

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log aiohttp's own complaints; the exception says what the arguments do."""
        _tell(kw.get("exc_info"))


def _tell(exc: BaseException | None, **context: object) -> None:
    # Messages of the parser hold what it was given.
    if isinstance(exc, (HttpProcessingError, web.RequestPayloadError, ConnectionError)):
        _log.info("http.refused", problem=type(exc).__name__, **context)
    else:
        _log.error("http.failed", exc_info=exc, **context)
