"""How many event streams are open, and how much is in memory for clients (SPEC §4, 7)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from weakref import WeakValueDictionary

from aiohttp import web

from downloadd.errors import StreamsFull, TooManyStreams
from downloadd.model import Job
from downloadd.web.requests import caller_name

#: Seconds after which it makes sense to ask again: streams end by themselves.
_LATER = 10.0
#: Files up to which a job is no large answer; one of 1,000 has some 2 MB.
MANY_FILES = 50
#: Bytes up to which a request's body is no large one.
LARGE_BYTES = 64 * 1024
#: Large answers, and large bodies, under way at once: of one client, and in all.
PER_CLIENT, IN_ALL = 2, 24


class StreamSlots:
    """Every open stream has one, Server-Sent Events and WebSockets alike."""

    def __init__(self, *, per_client: int, total: int) -> None:
        self._per_client = per_client
        self._total = total
        self._held: Counter[str] = Counter()

    @contextmanager
    def held(self, who: str) -> Iterator[None]:
        """Hold a slot for the length of the context. ``TooManyStreams``, ``StreamsFull``."""
        if self._held.total() >= self._total:
            raise StreamsFull(
                "As many jobs are being watched as this server can. Ask for the status instead.",
                retry_after=_LATER,
            )
        if self._held[who] >= self._per_client:
            raise TooManyStreams(
                f"One client watches {self._per_client} jobs at once, at most. "
                "End some, or ask for the status instead.",
                retry_after=_LATER,
            )
        self._held[who] += 1
        try:
            yield
        finally:
            self._held[who] -= 1
            if not self._held[who]:
                del self._held[who]


class Turns:
    """What takes much memory has its turn: it is there until its client has sent or taken it."""

    def __init__(self, *, per_client: int = PER_CLIENT, total: int = IN_ALL) -> None:
        self._per_client = per_client
        self._all = asyncio.Semaphore(total)
        #: As long as somebody waits or has one.
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def held(self, who: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the length of the context."""
        own = self._own.setdefault(who, asyncio.Semaphore(self._per_client))
        # Who waits for a turn of their own keeps nobody else from one.
        async with own, self._all:
            yield


ANSWERS: web.AppKey[Turns] = web.AppKey("answers", Turns)
BODIES: web.AppKey[Turns] = web.AppKey("bodies", Turns)


def turn_to_answer(request: web.Request, job: Job) -> AbstractAsyncContextManager[None]:
    """A context for answers with all of the job's files."""
    if job.total_files <= MANY_FILES:
        return nullcontext()
    return request.app[ANSWERS].held(caller_name(request))


def turn_to_read(request: web.Request) -> AbstractAsyncContextManager[None]:
    """A context for reading the body."""
    size = request.content_length
    if size is not None and size <= LARGE_BYTES:
        return nullcontext()
    return request.app[BODIES].held(caller_name(request))
