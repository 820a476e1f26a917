"""What is still somebody's: ``jobs.sweeper.Ledger`` over Redis, every look one script.

Whatever is dropped from a set is looked at and dropped in the same step, so
that a job made at that moment loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from downloadd.errors import StateError
from downloadd.model import TRANSITIONS, Deposit, Job, JobStatus, Standing
from downloadd.state.client import Arg, Client, Script
from downloadd.state.installation import Installation
from downloadd.state.keys import Keys

#: Seconds that an expired job can still be looked up, at the least: callers are
#: to learn that the archive is gone, not that there never was one.
EXPIRED_TTL = 3600
#: Members or keys that one command looks at.
_PAGE = 250
#: Seconds between two of these, so that jobs come in between.
_PAUSE = 0.01

_STANDING = Script.load("standing")
_EXPIRE = Script.load("expire")
_PRUNE = Script.load("prune")

_MAY_EXPIRE = " ".join(old for old, targets in TRANSITIONS.items() if JobStatus.EXPIRED in targets)
_UNENDED = " ".join(status for status in JobStatus if not status.ended)


class RedisLedger:
    def __init__(self, client: Client, keys: Keys, installation: Installation) -> None:
        self._client = client
        self._keys = keys
        self._installation = installation

    async def namespace(self) -> str:
        return f"{await self._installation.confirm()}/"

    async def standing(self, namespace: str, deposits: Sequence[Deposit]) -> Sequence[Standing]:
        keys = self._keys
        args: list[Arg] = [
            namespace.removesuffix("/"),
            keys.job("%s"),
            keys.checkpoint("%s"),
            *(part for deposit in deposits for part in (deposit.job_id, deposit.key)),
        ]
        reply = await self._client.run(_STANDING, [keys.installation, keys.archives], args)
        if reply is None:
            raise StateError("Redis has become another installation's; nothing is removed.")
        return [Standing(word) for word in reply]

    async def due(self, now: float, *, skip: int = 0, limit: int = 100) -> Sequence[Deposit]:
        members = await self._client.execute(
            *("ZRANGEBYSCORE", self._keys.archives, "-inf", now, "LIMIT", skip, limit),
            repeatable=True,
        )
        return [_deposit(member) for member in members]

    async def next_due(self, now: float) -> float | None:
        found = await self._client.execute(
            *("ZRANGEBYSCORE", self._keys.archives, f"({now}", "+inf", "WITHSCORES"),
            *("LIMIT", 0, 1),
            repeatable=True,
        )
        return float(found[1]) if found else None

    async def expired(self, deposit: Deposit, now: float) -> bool:
        keys, job_id = self._keys, deposit.job_id
        names = [
            keys.job(job_id),
            keys.files(job_id),
            keys.events(job_id),
            keys.archives,
            keys.deliveries(job_id),
        ]
        args: list[Arg] = [archive_member(deposit), deposit.key, now, _MAY_EXPIRE, EXPIRED_TTL]
        return bool(await self._client.run(_EXPIRE, names, args))

    async def prune(self) -> int:
        dropped = 0
        for name in (self._keys.queue, self._keys.active):
            dropped += await self._prune(name, _UNENDED)
        dropped += await self._prune(self._keys.webhooks, "")
        async for page in self._scan("SCAN", match=self._keys.every_user_jobs):
            for name in page:
                dropped += await self._prune(name, "")
        return dropped

    async def _prune(self, name: str, statuses: str) -> int:
        dropped = 0
        async for page in self._scan("ZSCAN", name):
            # A small set comes whole, whatever its COUNT; a page is members and scores in turn.
            members = page[::2]
            for start in range(0, len(members), _PAGE):
                args = [self._keys.job("%s"), statuses, *members[start : start + _PAGE]]
                dropped += int(await self._client.run(_PRUNE, [name], args))
        return dropped

    async def _scan(self, command: str, *key: str, match: str = "") -> AsyncIterator[list[Any]]:
        rest: list[Arg] = ["COUNT", _PAGE]
        if match:
            rest += ["MATCH", match, "TYPE", "zset"]
        cursor = "0"
        while True:
            cursor, page = await self._client.execute(command, *key, cursor, *rest, repeatable=True)
            if page:
                yield page
            if cursor == "0":
                return
            await asyncio.sleep(_PAUSE)


def archive_expiry(job: Job, ttl: float) -> tuple[str, float]:
    """How a completed job's archive is listed, and when its time is over; '' without one."""
    if job.status is not JobStatus.COMPLETED or job.archive is None:
        return "", 0.0
    member = archive_member(Deposit(job_id=job.id, key=job.archive.key))
    return member, (job.completed_at or job.updated_at) + ttl


def archive_member(deposit: Deposit) -> str:
    """An archive as the sorted set of archives has it."""
    return f"{deposit.job_id} {deposit.key}"


def _deposit(member: str) -> Deposit:
    job_id, _, key = member.partition(" ")
    return Deposit(job_id=job_id, key=key)
