"""aiohttp connections that dial no address which the guard has not passed.

Two barriers: the resolver refuses a name when one of its answers is bad, and
the socket factory, which is called with the address about to be dialled,
refuses again. The second one also sees what no resolver sees: IP literals,
those in redirects included (``TCPConnector._resolve_host``).
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from http import HTTPStatus
from typing import Any

from aiodns import DNSResolver
from aiodns.error import DNSError
from aiohttp import ClientRequest, ClientTimeout, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace

from downloadd.errors import AddressBlocked
from downloadd.network.guard import AddressGuard
from downloadd.urls import canonical_host

#: For one question to one name server, and how often each is asked; the time
#: for connecting ends it all the same.
_QUERY_SECONDS, _QUERIES = 3.0, 3
#: Names that one channel of c-ares is asked for. It keeps each answer for as long as that
#: says, without a bound and with no option for one: a name's may be a megabyte.
NAMES_PER_CHANNEL = 64
#: Of a name's addresses so many are dialled; all are checked.
MAX_ADDRESSES = 8
#: Seconds for which an idle connection is kept.
KEEPALIVE = 15.0

#: Idle connections that are kept at most, of all hosts together: each costs a descriptor.
MAX_IDLE = 256

#: Interim answers (RFC 9110 §15.2) before a final one, as in Go's net/http.
MAX_INTERIM = 5

#: The host that the current task is connecting to. Tasks that aiohappyeyeballs
#: starts for one connection inherit it.
_dialled_host: ContextVar[str] = ContextVar("dialled_host", default="")
_new_only: ContextVar[bool] = ContextVar("new_only", default=False)


class DialRefused(PermissionError):
    """The guard said no at the last moment; an ``OSError``, as a failed dial is.

    aiohappyeyeballs handles only ``OSError`` and ``RuntimeError`` there.
    """

    def __init__(self, blocked: AddressBlocked) -> None:
        super().__init__(errno.EACCES, str(blocked))
        self.blocked = blocked


class _Channel:
    """One of c-ares, and how much it is in use."""

    def __init__(self) -> None:
        self.resolver = DNSResolver(timeout=_QUERY_SECONDS, tries=_QUERIES)
        self.asked = self.waiting = 0


class GuardedResolver(AbstractResolver):
    """c-ares, as ``/etc/resolv.conf`` and ``/etc/hosts`` say; one bad answer refuses the name.

    Not the system's own resolver: that holds a thread for each name, for as
    long as a server does not answer, and somebody's silent name servers must
    not hold up the names of others. Raises ``AddressBlocked``, ``OSError``.
    """

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._channel = _Channel()
        #: This one, and those before it that are waiting for an answer still.
        self._channels = {self._channel}

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,
    ) -> list[ResolveResult]:
        try:
            name = canonical_host(host)
            answers = await self._look_up(name, port, family)
        except ValueError as exc:
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from exc
        except DNSError as exc:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address") from exc
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        for answer in answers:
            self._guard.check_address(answer["host"], name, port)
        # aiohttp dials all that it is given, and those that are left after each
        # round again: of thousands, a URL would make a scan of somebody's ports.
        return answers[:MAX_ADDRESSES]

    async def _look_up(
        self, name: str, port: int, family: socket.AddressFamily
    ) -> list[ResolveResult]:
        async with self._asking() as names:
            found = await names.getaddrinfo(
                name, port=port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
        return [
            ResolveResult(
                hostname=name,
                host=node.addr[0].decode(),
                port=port,
                family=node.family,
                proto=node.protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for node in found.nodes
        ]

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[DNSResolver]:
        """Give the channel, or a new one when it has been asked often enough."""
        if self._channel.asked >= NAMES_PER_CHANNEL:
            await self._done_with(self._channel)
            self._channel = _Channel()
            self._channels.add(self._channel)
        channel = self._channel
        channel.asked += 1
        channel.waiting += 1
        try:
            yield channel.resolver
        finally:
            channel.waiting -= 1
            if channel is not self._channel:
                await self._done_with(channel)

    async def _done_with(self, channel: _Channel) -> None:
        if not channel.waiting:
            self._channels.discard(channel)
            await channel.resolver.close()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.resolver.close()


class Leftover(HttpProcessingError):
    """What came in place of a further answer on a connection, and may be of the one before.

    Whoever asks again does that ``on_a_new_connection``.
    """


@contextmanager
def on_a_new_connection() -> Iterator[None]:
    """Take none from the pool for what the current task asks."""
    token = _new_only.set(True)
    try:
        yield
    finally:
        _new_only.reset(token)


class _Answers(ResponseHandler):
    """The answers on one connection, with few interim ones before each.

    aiohttp reads them for as long as they come, and a source may send them
    for ever; each costs some KiB until the garbage is collected.

    What is no answer where a further one is expected is ``Leftover``.
    """

    _interim = 0
    _asked = _answered = 0

    def set_response_params(self, **params: Any) -> None:
        self._asked += 1
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        if self.exception() is not None:
            return
        code = data[0].code
        final = code >= HTTPStatus.OK or code == HTTPStatus.SWITCHING_PROTOCOLS
        self._answered += final
        self._interim = 0 if final else self._interim + 1
        if self._interim <= MAX_INTERIM:
            super().feed_data(data, size)
        else:
            self.close()
            self.set_exception(HttpProcessingError(message="too many interim answers"))

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        if isinstance(exc, HttpProcessingError) and 0 < self._answered < self._asked:
            exc, exc_cause = Leftover(code=exc.code, message=exc.message), exc
        super().set_exception(exc, *(() if exc_cause is None else (exc_cause,)))


class GuardedConnector(TCPConnector):
    """A connection pool whose every connection has passed the guard.

    How many are in use is not limited here, for who fetches limits how much at
    once; how many wait to be used again is.
    """

    def __init__(self, guard: AddressGuard, *, reuse: bool = True) -> None:
        """``reuse``: whether a connection serves one request after another."""
        # aiohttp closes only a resolver of its own making.
        self._names = GuardedResolver(guard)
        super().__init__(
            resolver=self._names,
            socket_factory=self._open_socket,
            ssl=_tls(),
            limit=0,
            force_close=not reuse,
            keepalive_timeout=KEEPALIVE if reuse else None,
        )
        self._guard = guard
        make: type[ResponseHandler] = _Answers
        self._factory = partial(make, loop=self._loop)

    async def connect(
        self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> Connection:
        """Take a connection from the pool or make one, knowing for which host."""
        token = _dialled_host.set(req.host)
        try:
            while True:
                connection = await super().connect(req, traces, timeout)
                # What has come meanwhile would be taken for the answer.
                if connection.protocol is None or not connection.protocol.should_close:
                    return connection
                connection.close()
        finally:
            _dialled_host.reset(token)

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        return None if _new_only.get() else await super()._get(key, traces)

    def _release(
        self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False
    ) -> None:
        super()._release(key, protocol, should_close=should_close)
        # aiohttp keeps every one; a list of files at as many hosts leaves as many.
        if sum(map(len, self._conns.values())) > MAX_IDLE:
            self._close_oldest()

    def _close_oldest(self) -> None:
        idle = ((conns[0][1], key) for key, conns in self._conns.items() if conns)
        _, key = min(idle, key=lambda it: it[0])
        protocol, _ = self._conns[key].popleft()
        if not self._conns[key]:
            del self._conns[key]
        protocol.close()

    async def close(self, *, abort_ssl: bool = False) -> None:
        await super().close(abort_ssl=abort_ssl)
        await self._names.close()

    def _open_socket(self, addr_info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = addr_info
        try:
            self._guard.check_address(address[0], _dialled_host.get(), address[1])
        except AddressBlocked as exc:
            raise DialRefused(exc) from exc
        return socket.socket(family=family, type=kind, proto=protocol)


def _tls() -> ssl.SSLContext:
    """Verify certificates; made now, so that SSL_CERT_FILE and SSL_CERT_DIR count."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
