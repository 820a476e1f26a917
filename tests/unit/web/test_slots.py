"""Turns: how many large answers are under way."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from downloadd.web.slots import Turns


async def waits(turns: Turns, who: str) -> bool:
    """Whether there is no turn for a client now."""
    try:
        async with asyncio.timeout(0.05), turns.held(who):
            return False
    except TimeoutError:
        return True


async def test_one_client_leaves_turns_to_others() -> None:
    """At their own limit a client waits, and takes none of the turns of all by waiting."""
    turns = Turns(per_client=2, total=3)
    async with AsyncExitStack() as held:
        for _ in range(2):
            await held.enter_async_context(turns.held("a"))
        waiting = [asyncio.create_task(waits(turns, "a")) for _ in range(10)]
        assert not await waits(turns, "b")
        assert all(await asyncio.gather(*waiting))
        await held.enter_async_context(turns.held("b"))
        assert await waits(turns, "c")
    assert not await waits(turns, "c")
    assert not await waits(turns, "a")


async def test_a_turn_is_given_back_however_it_ends() -> None:
    """An error, or a client that goes while it waits, keeps nobody out; nothing is left."""
    turns = Turns(per_client=1, total=1)

    async def fail() -> None:
        async with turns.held("a"):
            waiting = asyncio.create_task(waits(turns, "b"))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert not await waits(turns, "b")
    assert not turns._own
