"""Names with many addresses: all are checked, few are dialled."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp.abc import ResolveResult

from downloadd.errors import AddressBlocked
from downloadd.network.dial import MAX_ADDRESSES, GuardedResolver
from downloadd.network.guard import AddressGuard


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
