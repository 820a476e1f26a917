"""Names with many addresses: all are checked, few are dialled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest
from aiodns import DNSResolver
from aiohttp import ClientSession
from aiohttp.abc import ResolveResult

from downloadd.errors import AddressBlocked
from downloadd.network import dial
from downloadd.network.dial import (
    MAX_ADDRESSES,
    NAMES_PER_CHANNEL,
    GuardedConnector,
    GuardedResolver,
)
from downloadd.network.guard import AddressGuard
from tests.origin import Origin
from tests.security.name_server import NameServer


def answer(address: str) -> ResolveResult:
    return ResolveResult(
        hostname="many.example",
        host=address,
        port=80,
        family=socket.AF_INET,
        proto=0,
        flags=socket.AI_NUMERICHOST,
    )


@pytest.fixture
async def resolver() -> AsyncIterator[GuardedResolver]:
    resolver = GuardedResolver(AddressGuard())
    yield resolver
    await resolver.close()


async def test_few_addresses_are_dialled(
    resolver: GuardedResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [answer(f"9.9.{number // 250}.{number % 250}") for number in range(3900)]

    async def look_up(*_: object) -> list[ResolveResult]:
        return found

    monkeypatch.setattr(resolver, "_look_up", look_up)
    assert await resolver.resolve("many.example", 80) == found[:MAX_ADDRESSES]
    # The last one is looked at, too.
    found.append(answer("10.0.0.1"))
    with pytest.raises(AddressBlocked):
        await resolver.resolve("many.example", 80)


@pytest.fixture
async def name_server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NameServer]:
    """Asked in place of the system's."""
    async with NameServer("9.9.9.9", port=0, ttl=3600) as server:
        asked = partial(DNSResolver, nameservers=[f"127.0.0.1:{server.port}"])
        monkeypatch.setattr(dial, "DNSResolver", asked)
        yield server


async def test_no_more_answers_are_kept_than_of_some_names(name_server: NameServer) -> None:
    """c-ares keeps them for their hour, all: a new channel is made for every so many names."""
    resolver = GuardedResolver(AddressGuard())
    for _ in range(NAMES_PER_CHANNEL):
        assert [it["host"] for it in await resolver.resolve("good.example", 80)] == ["9.9.9.9"]
    assert name_server.asked["A good.example"] == 1
    await resolver.resolve("good.example", 80)
    assert name_server.asked["A good.example"] == 2
    assert len(resolver._channels) == 1
    await resolver.close()


async def test_who_waits_has_the_answer_still(name_server: NameServer) -> None:
    """A channel that is used no more is closed when its last answer is there."""
    resolver = GuardedResolver(AddressGuard())
    late = asyncio.ensure_future(resolver.resolve("late-10.example", 80))
    gone = asyncio.ensure_future(resolver.resolve("late-11.example", 80))
    await asyncio.sleep(0.1)
    for number in range(3 * NAMES_PER_CHANNEL):
        await resolver.resolve(f"9-9-1-{number}.ip.example", 80)
    assert len(resolver._channels) == 2
    gone.cancel()
    assert [it["host"] for it in await late] == ["9.9.9.9"]
    assert len(resolver._channels) == 1
    await resolver.close()


async def test_few_idle_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of files at as many hosts leaves no connection open to each."""
    monkeypatch.setattr(dial, "MAX_IDLE", 3)
    connector = GuardedConnector(AddressGuard(allow=["127.0.0.0/8"]))
    async with AsyncExitStack() as stack, ClientSession(connector=connector) as session:
        origins = [await stack.enter_async_context(Origin()) for _ in range(8)]
        for origin in origins:
            async with session.get(origin.url(size=10)) as response:
                assert len(await response.read()) == 10
        await asyncio.sleep(0.1)
        assert sum(origin.open_connections for origin in origins) == 3
