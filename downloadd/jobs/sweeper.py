"""Removing what nobody will ask for again, and nothing else.

At the start and every hour: unfinished uploads, objects and temporary folders
that belong to no living job, and dead entries of what lists jobs. As soon as
they are due: archives whose time is over. Every process does it; two that do
it at once remove nothing twice that matters.

What is there is listed first and looked up after, so that what a job makes
meanwhile is not taken for a leftover: a job is known before it makes anything.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

import structlog

from downloadd.errors import DownloaddError, StateError
from downloadd.model import Deposit, Standing
from downloadd.ports import Clock, Found, ObjectStore
from downloadd.tasks import stopped

log = structlog.get_logger(__name__)

#: Seconds between two sweeps, give or take a tenth: processes are not to do it in step.
_INTERVAL = 3600.0
#: Seconds after which a sweep that Redis kept from beginning is tried again.
_AWAY = 5.0
#: Seconds between two looks for archives that are due: from, to.
_LOOKS = (1.0, 60.0)
#: Removals at once: jobs come first.
_AT_ONCE = 4
#: Things that are looked up at once.
_PAGE = 100

_JOB_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
#: An archive's name behind the namespace; a second attempt's has its number.
_ARCHIVE = re.compile(rf"({_JOB_ID})(?:-[0-9]+)?\.zip")
_FOLDER = re.compile(_JOB_ID)

T = TypeVar("T")


class Ledger(Protocol):
    """Tells what is still somebody's. Raises ``StateError``, ``StateUnavailable``."""

    async def namespace(self) -> str:
        """As in ``Claim``: asked anew each time, and set again where it was lost."""
        ...

    async def standing(self, namespace: str, deposits: Sequence[Deposit]) -> Sequence[Standing]:
        """Of each deposit in turn, all at one moment.

        ``StateError`` where what is asked knows another namespace than this
        one: it cannot tell, then.
        """
        ...

    async def due(self, now: float, *, skip: int = 0, limit: int = 100) -> Sequence[Deposit]:
        """Archives whose time is over, the oldest first but for the first ``skip``."""
        ...

    async def next_due(self, now: float) -> float | None:
        """When the next archive's time is over; None where there is none."""
        ...

    async def expired(self, deposit: Deposit, now: float) -> bool:
        """Note that an archive is gone; its job, if there is one, becomes ``expired``."""
        ...

    async def prune(self) -> int:
        """Drop dead entries from what lists jobs; return how many."""
        ...


class Folders(Protocol):
    """The temporary folders, one a job, that this process keeps and does not work on."""

    def kept_jobs(self) -> Sequence[str]:
        """The jobs whose folders are kept now."""
        ...

    async def clear_kept(self, job_id: str) -> None:
        """Remove one, if it is still merely kept."""
        ...


class Tally:
    """What one round has removed, and what it could not."""

    def __init__(self) -> None:
        self.removed: Counter[str] = Counter()
        self._failures: list[str] = []

    def fail(self, error: Exception) -> None:
        self._failures.append(str(error))

    async def each(
        self, kind: str, things: Collection[T], remove: Callable[[T], Awaitable[object]]
    ) -> int:
        """Remove things, a few at once; count and return how many it went well with."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(thing: T) -> bool:
            async with slots:
                try:
                    await remove(thing)
                except DownloaddError as exc:
                    self.fail(exc)
                    return False
                return True

        done = sum(await asyncio.gather(*map(one, things)))
        self.removed[kind] += done
        return done

    def report(self) -> None:
        if counts := {kind: count for kind, count in self.removed.items() if count}:
            log.info("sweep.removed", **counts)
        if self._failures:
            log.warning("sweep.incomplete", failed=len(self._failures), error=self._failures[0])


class Sweeper:
    """Sweeps for as long as its context lasts. None of its methods raises but on cancellation."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        objects: ObjectStore,
        folders: Folders,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._objects = objects
        self._folders = folders
        self._clock = clock
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def __aenter__(self) -> Self:
        self._tasks = (
            asyncio.create_task(self._sweep_forever(), name="sweep"),
            asyncio.create_task(self._expire_forever(), name="sweep-expired"),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await stopped(self._tasks)

    async def _sweep_forever(self) -> None:
        while True:
            pause = _INTERVAL * random.uniform(0.9, 1.1)  # noqa: S311
            await self._clock.sleep(pause if await self.sweep() else _AWAY)

    async def _expire_forever(self) -> None:
        while True:
            await self._clock.sleep(await self.expire())

    # --- what is left over ---

    async def sweep(self) -> bool:
        """Remove what is left over; return whether Redis was there to tell what that is."""
        tally = Tally()
        try:
            namespace = await self._ledger.namespace()
        except StateError:
            return False  # others say loudly that it is away
        for step in (self._sweep_storage, self._sweep_folders, self._prune):
            try:
                await step(namespace, tally)
            except DownloaddError as exc:
                tally.fail(exc)
            except Exception as exc:
                log.exception("sweep.crashed")
                tally.fail(exc)
        tally.report()
        return True

    async def _sweep_storage(self, namespace: str, tally: Tally) -> None:
        if self._objects.shared:
            prefix = namespace
        elif await self._objects.belongs_to(namespace):
            prefix = ""
        else:
            log.warning("sweep.not_ours", hint="The folder of archives is another installation's.")
            return
        await self._sweep_uploads(namespace, prefix, tally)
        await self._sweep_objects(namespace, prefix, tally)

    async def _sweep_uploads(self, namespace: str, prefix: str, tally: Tally) -> None:
        async for page in _pages(self._objects.find_uploads(prefix), prefix):
            orphans = await self._left(namespace, page, {Standing.KEPT, Standing.ORPHAN})
            await tally.each(
                "uploads", orphans, lambda it: self._objects.abort(it.key, it.upload_id)
            )

    async def _sweep_objects(self, namespace: str, prefix: str, tally: Tally) -> None:
        async for page in _pages(self._objects.find_objects(prefix), prefix):
            orphans = await self._left(namespace, page, {Standing.ORPHAN})
            await tally.each("objects", orphans, lambda it: self._objects.delete(it.key))

    async def _sweep_folders(self, namespace: str, tally: Tally) -> None:
        names = [name for name in self._folders.kept_jobs() if _FOLDER.fullmatch(name)]
        for start in range(0, len(names), _PAGE):
            page = [(name, Deposit(job_id=name)) for name in names[start : start + _PAGE]]
            orphans = await self._left(namespace, page, {Standing.KEPT, Standing.ORPHAN})
            await tally.each("folders", orphans, self._folders.clear_kept)

    async def _prune(self, namespace: str, tally: Tally) -> None:
        tally.removed["entries"] += await self._ledger.prune()

    async def _left(
        self, namespace: str, page: Sequence[tuple[T, Deposit]], which: Collection[Standing]
    ) -> list[T]:
        """Those things of a page that stand so."""
        standings = await self._ledger.standing(namespace, [deposit for _, deposit in page])
        return [it for (it, _), stands in zip(page, standings, strict=True) if stands in which]

    # --- archives whose time is over ---

    async def expire(self) -> float:
        """Remove archives that are due; return the seconds until to look again."""
        now, tally = self._clock.now(), Tally()
        shortest, longest = _LOOKS
        due: float | None = None
        try:
            await self._expire_all(now, tally)
            due = await self._ledger.next_due(now)
        except StateError:
            pass  # others say loudly that it is away
        except Exception as exc:
            log.exception("sweep.crashed")
            tally.fail(exc)
        tally.report()
        return longest if due is None else min(max(due - now, shortest), longest)

    async def _expire_all(self, now: float, tally: Tally) -> None:
        left = 0
        while due := await self._ledger.due(now, skip=left, limit=_PAGE):
            left += len(due) - await tally.each("archives", due, self._expire)

    async def _expire(self, deposit: Deposit) -> None:
        # In this order: killed in between, it is done again.
        await self._objects.delete(deposit.key)
        if await self._ledger.expired(deposit, self._clock.now()):
            log.info("job.expired", jobId=deposit.job_id)


async def _pages(
    found: AsyncIterator[Found], prefix: str
) -> AsyncIterator[list[tuple[Found, Deposit]]]:
    """What bears an archive's name, each with its job's id, some at once; the rest is not ours."""
    page: list[tuple[Found, Deposit]] = []
    async for one in found:
        if (name := _ARCHIVE.fullmatch(one.key.removeprefix(prefix))) is None:
            continue
        page.append((one, Deposit(job_id=name[1], key=one.key)))
        if len(page) >= _PAGE:
            yield page
            page = []
    if page:
        yield page
