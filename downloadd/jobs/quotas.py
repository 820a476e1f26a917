"""How many jobs a caller may make, and how many bytes they may have fetched (SPEC §7)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from downloadd.access.caller import Caller
from downloadd.errors import DownloaddError, QuotaExceeded, TooManyRequests
from downloadd.model import Record
from downloadd.ports import Limiter

MINUTE, DAY = 60, 86400
#: What Redis counts up to, and so no limit at all.
_ENDLESS = 2**62

#: A name, how many, in how many seconds.
_Limit = tuple[str, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota(Record):
    """What one user of a role may have; None: as much as they like."""

    jobs_per_minute: int
    jobs_per_day: int | None = None
    bytes_per_day: int | None = None


@dataclass(slots=True)
class Admission:
    """A job that may be made."""

    #: Whether it was there before, and is nothing new.
    replayed: bool = False


class Quotas:
    def __init__(self, limiter: Limiter, usual: Quota, roles: Mapping[str, Quota]) -> None:
        """``usual`` is of roles that are not among ``roles``."""
        self._limiter = limiter
        self._usual = usual
        self._roles = roles

    @asynccontextmanager
    async def admit(self, caller: Caller, who: str) -> AsyncIterator[Admission]:
        """Count the job that is made within the context; one that is not made is given back.

        Jobs are counted by ``who``, bytes by the caller's user. Raises
        ``TooManyRequests``, ``QuotaExceeded``.
        """
        quota = self._roles.get(caller.role, self._usual)
        await self._check_bytes(quota, caller)
        admission = Admission()
        taken: list[_Limit] = []
        try:
            for limit in _limits(quota):
                taken.append(limit)
                await self._take(limit, who)
            yield admission
        except DownloaddError:
            # Nothing else is given back: of what was broken off, a job may come.
            await self._give_back(taken, who)
            raise
        if admission.replayed:
            await self._give_back(taken, who)

    async def look(self, caller: Caller, who: str) -> None:
        """Count a look at a list of files, which asks as many sources as a job does.

        There may be as many as new jobs. Raises ``TooManyRequests``.
        """
        limit = self._roles.get(caller.role, self._usual).jobs_per_minute
        left = await self._limiter.spend("looks", who, 1, limit=limit, seconds=MINUTE)
        if not left.granted:
            raise TooManyRequests(
                f"More than {limit:,} checks of a list in a minute. Wait, then try again.",
                retry_after=left.reset,
            )

    async def _give_back(self, taken: Sequence[_Limit], who: str) -> None:
        for name, limit, seconds in taken:
            await self._limiter.spend(name, who, -1, limit=limit, seconds=seconds)

    async def _take(self, what: _Limit, who: str) -> None:
        name, limit, seconds = what
        left = await self._limiter.spend(name, who, 1, limit=limit, seconds=seconds)
        if left.granted:
            return
        if seconds == MINUTE:
            raise TooManyRequests(
                f"More than {limit:,} new jobs in a minute. Wait, then try again.",
                retry_after=left.reset,
            )
        raise QuotaExceeded(
            f"More than {limit:,} jobs in a day. Wait until the day is over.",
            retry_after=left.reset,
        )

    async def _check_bytes(self, quota: Quota, caller: Caller) -> None:
        limit = quota.bytes_per_day
        if limit is None:
            return
        left = await self._limiter.spend("bytes", caller.user, 0, limit=limit, seconds=DAY)
        if not left.granted:
            raise QuotaExceeded(
                f"{limit:,} bytes were fetched for this user in a day, which is all there is. "
                "Wait until the day is over.",
                retry_after=left.reset,
            )

    async def fetched(self, user: str, size: int) -> None:
        """Count bytes that were fetched for a user."""
        if size > 0:
            await self._limiter.spend("bytes", user, size, limit=_ENDLESS, seconds=DAY)


def _limits(quota: Quota) -> list[_Limit]:
    found = [("jobs", quota.jobs_per_minute, MINUTE)]
    if quota.jobs_per_day is not None:
        found.append(("jobs-a-day", quota.jobs_per_day, DAY))
    return found
