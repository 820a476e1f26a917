"""The guard at the moment of dialling: what is checked is what is connected to."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiodns import DNSResolver
from aiohttp.resolver import ThreadedResolver

from downloadd.errors import AddressBlocked, SourceUnreachable
from downloadd.model import Source
from downloadd.network.dial import DialRefused, GuardedConnector
from downloadd.network.fetch import HttpSource
from downloadd.network.guard import AddressGuard
from tests.origin import Origin, content

Answers = Callable[..., list[str]]


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as server:
        yield server


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Have names resolve to these addresses; return the names that were asked for."""
    real = socket.getaddrinfo

    def install(*addresses: str) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, *args: object, **options: object) -> list[Any]:
            asked.append(host)
            port = args[0] if args else options.get("port", 0)
            return [
                entry
                for address in addresses
                for entry in real(address, port, type=socket.SOCK_STREAM)  # type: ignore[arg-type]
            ]

        async def ares(_: DNSResolver, host: str, *, port: int, **options: object) -> object:
            nodes = [
                SimpleNamespace(family=kind, protocol=number, addr=(at[0].encode(), at[1]))
                for kind, _, number, _, at in getaddrinfo(host, port)
            ]
            return SimpleNamespace(nodes=nodes)

        monkeypatch.setattr(DNSResolver, "getaddrinfo", ares)
        # What aiohttp's own resolver asks.
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return install


async def reason(guard: AddressGuard, url: str) -> str:
    async with HttpSource.open_session(guard) as reader:
        with pytest.raises(AddressBlocked) as caught:
            async with reader.open(Source(url=url)):
                pass
    assert caught.value.message == "This address may not be fetched."
    return caught.value.reason


def at(origin: Origin, host: str) -> str:
    return origin.url(1, 10, host=host)


async def test_a_name_for_loopback_is_refused(origin: Origin) -> None:
    """localhost, resolved by the system, is refused without a connection."""
    assert await reason(AddressGuard(ports=[origin.port]), at(origin, "localhost"))
    assert origin.connections == 0


@pytest.mark.parametrize("addresses", [("8.8.8.8", "127.0.0.1"), ("127.0.0.1", "8.8.8.8")])
async def test_one_bad_answer_refuses_the_name(
    origin: Origin, resolve: Answers, addresses: tuple[str, str]
) -> None:
    """A public address among the answers does not excuse a private one."""
    resolve(*addresses)
    guard = AddressGuard(ports=[origin.port])
    assert "127.0.0.1" in await reason(guard, at(origin, "files.example"))
    assert origin.connections == 0


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "64:ff9b::7f00:1", "169.254.169.254"])
async def test_answers_that_hide_something(origin: Origin, resolve: Answers, address: str) -> None:
    """Resolved addresses are unwrapped like written ones."""
    resolve(address)
    guard = AddressGuard(ports=[origin.port], allow=["127.0.0.1"])
    assert await reason(guard, at(origin, "files.example"))
    assert origin.connections == 0


async def test_a_redirect_to_a_name_for_loopback(origin: Origin, resolve: Answers) -> None:
    """The second hop's name is resolved and checked like the first one's."""
    asked = resolve("127.0.0.1")
    guard = AddressGuard(allow=["first.internal"], ports=[origin.port])
    url = origin.url(host="first.internal", to=at(origin, "files.example"))
    assert "files.example" in await reason(guard, url)
    assert asked == ["first.internal", "files.example"]
    assert origin.connections == 1


async def test_an_allowed_name_may_be_private(origin: Origin, resolve: Answers) -> None:
    """A host that the operator allows works, is resolved once, and opens no other name."""
    asked = resolve("127.0.0.1")
    guard = AddressGuard(allow=["files.internal"])
    async with HttpSource.open_session(guard) as reader:
        for _ in range(3):
            async with reader.open(Source(url=at(origin, "Files.Internal."))) as body:
                assert b"".join([chunk async for chunk in body.chunks()]) == content(1, 10)
    assert asked == ["files.internal"]
    assert origin.requests[0].headers["host"] == f"files.internal:{origin.port}"
    other = AddressGuard(allow=["files.internal"], ports=[origin.port])
    assert await reason(other, at(origin, "files.example"))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]", "0.0.0.0", "[::]"],
)
async def test_literals_meet_the_socket_factory(origin: Origin, host: str) -> None:
    """aiohttp asks no resolver about a literal; the last barrier holds all the same."""
    connector = GuardedConnector(AddressGuard(ports=[origin.port]))
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.get(f"http://{host}:{origin.port}/")
    assert isinstance(caught.value.os_error, DialRefused)
    assert caught.value.os_error.blocked.reason
    assert origin.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f000001", "0x7f.1", "0177.0.0.1"])
async def test_odd_literals_are_never_dialled(origin: Origin, host: str) -> None:
    """Spellings that the C library would take for loopback lead nowhere."""
    connector = GuardedConnector(AddressGuard(allow=["127.0.0.1"]))
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://{host}:{origin.port}/")
    assert origin.connections == 0


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
async def test_the_barrier_holds_without_the_resolver(
    origin: Origin, resolve: Answers, addresses: tuple[str, ...]
) -> None:
    """Were the resolver's check to fail, the socket factory alone would refuse."""
    connector = GuardedConnector(AddressGuard(ports=[origin.port]))
    resolve(*addresses)
    connector._resolver = ThreadedResolver()
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(at(origin, "files.example"))
    assert origin.connections == 0


async def test_redirects_followed_by_aiohttp_itself_are_guarded(origin: Origin) -> None:
    """Whoever uses the connector and lets aiohttp follow redirects is safe too."""
    guard = AddressGuard(allow=[f"127.0.0.1:{origin.port}"])
    async with Origin() as other:
        async with aiohttp.ClientSession(connector=GuardedConnector(guard)) as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(origin.url(to=other.url()))
        assert origin.connections == 1
        assert other.connections == 0


async def test_the_environments_proxy_is_ignored(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would dial in our place, unguarded."""
    async with Origin() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with (
            HttpSource.open_session(AddressGuard(allow=["127.0.0.1"])) as reader,
            reader.open(Source(url=origin.url(1, 10))) as body,
        ):
            assert b"".join([chunk async for chunk in body.chunks()]) == content(1, 10)
        assert proxy.connections == 0


async def test_a_name_without_addresses(resolve: Answers) -> None:
    """An empty answer is an unreachable source."""
    resolve()
    async with HttpSource.open_session(AddressGuard()) as reader:
        with pytest.raises(SourceUnreachable):
            async with reader.open(Source(url="http://files.example/")):
                pass


async def test_closing_ends_the_resolver() -> None:
    """What looks names up goes with the connections."""
    connector = GuardedConnector(AddressGuard())
    await connector.close()
    with pytest.raises(RuntimeError):
        await connector._names._look_up("localhost", 80, socket.AF_UNSPEC)
