"""Everything about Redis at once, for the composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from downloadd.ports import Clock
from downloadd.sealing import Sealer
from downloadd.state.client import Client, open_client
from downloadd.state.feed import Feed, open_feed
from downloadd.state.installation import Installation
from downloadd.state.jobs import RedisJobStore
from downloadd.state.keys import Keys
from downloadd.state.ledger import RedisLedger
from downloadd.state.outbox import RedisOutbox
from downloadd.state.pace import RedisPace


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What shares one Redis."""

    client: Client
    keys: Keys
    jobs: RedisJobStore
    feed: Feed
    ledger: RedisLedger
    outbox: RedisOutbox
    pace: RedisPace

    async def check(self) -> None:
        """Return when Redis takes a write: one that is full or a replica answers reads alone.

        Raises ``StateUnavailable``, ``StateError``.
        """
        await self.client.execute("SET", self.keys.health, "", "EX", 60, repeatable=True)


@asynccontextmanager
async def open_state(
    url: str,
    *,
    owner: str | None = None,
    prefix: str = "{downloadd}:",
    lease: float = 30.0,
    completed_ttl: float = 24 * 3600,
    failed_ttl: float = 7 * 24 * 3600,
    retry_window: float = 3600,
    archive_ttl: float = 24 * 3600,
    wait_for_fsync: bool = False,
    timeout: float = 5.0,
    clock: Clock | None = None,
    secret: bytes | None = None,
) -> AsyncIterator[State]:
    """Jobs and their events at ``url``, for the length of the context.

    ``owner`` names this process among all that ever share the Redis (None: it
    makes itself a name), ``secret`` seals the headers of sources. Durations
    are in seconds. Nothing is dialled before it is needed, except for the
    feed's connection, which is kept from the beginning: a Redis that is away
    now does not stop the start. Raises ``StateError`` for a URL that cannot be
    used.
    """
    keys = Keys(prefix)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_client(url, timeout=timeout))
        durable = None
        if wait_for_fsync:
            durable = await stack.enter_async_context(
                open_client(url, timeout=timeout, durable=True),
            )
        feed = await stack.enter_async_context(open_feed(url, client, keys))
        installation = Installation(client, keys)
        jobs = RedisJobStore(
            client,
            keys,
            owner=owner,
            lease=lease,
            completed_ttl=completed_ttl,
            failed_ttl=failed_ttl,
            retry_window=retry_window,
            archive_ttl=archive_ttl,
            installation=installation,
            durable=durable,
            clock=clock,
            sealer=Sealer(secret) if secret is not None else None,
        )
        yield State(
            client=client,
            keys=keys,
            jobs=jobs,
            feed=feed,
            ledger=RedisLedger(client, keys, installation),
            outbox=RedisOutbox(client, keys, owner=owner),
            pace=RedisPace(client, keys, owner=owner),
        )
