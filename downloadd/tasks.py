"""Waiting for what must not be left half-way: calls in threads, tasks that were cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

Args = TypeVarTuple("Args")
R = TypeVar("R")


async def in_thread(executor: Executor, call: Callable[[*Args], R], *args: *Args) -> R:
    """Make a blocking call in a thread of ``executor``.

    A cancelled caller waits for the call's end all the same: the thread
    cannot be stopped, and what it works on must not be closed under it.
    """
    return await to_its_end(asyncio.get_running_loop().run_in_executor(executor, call, *args))


async def to_its_end(future: asyncio.Future[R]) -> R:
    """Await a future; when cancelled, wait until it is done before saying so."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await settled(future)
        raise


async def settled(future: asyncio.Future[R]) -> None:
    """Wait until a future is done, whatever its result and however often we are cancelled."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({future})
    if not future.cancelled():
        future.exception()  # its error, if any, is the awaiting caller's business


async def stopped(tasks: Collection[asyncio.Task[R]]) -> None:
    """Cancel tasks and wait until they have ended, whatever their results.

    Unlike ``asyncio.gather`` it can itself be cancelled at once.
    """
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # retrieved, so that nobody reports it as forgotten
