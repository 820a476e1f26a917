"""What a message says: the job as it is now, as its status has it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from downloadd.errors import DownloaddError
from downloadd.model import Job, JobStatus, Record, iso8601
from downloadd.ports import Delivery, JobStore

#: Longest body, bytes, that names every file: receivers take no large ones, and
#: what is left out can be asked for.
MOST_WITH_FILES = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Written(Record):
    """A message's body, and the job that it tells of."""

    job: Job
    body: bytes


#: Writes a message's body. Raises ``JobNotFound``, ``Unreadable``, and
#: other ``DownloaddError``s where it may go well later.
WriteBody = Callable[[Delivery], Awaitable[Written]]


class Unreadable(DownloaddError):
    """Another version wrote the job, or it is no more what the message says."""


class BodyWriter:
    """Writes messages' bodies: a ``WriteBody``."""

    def __init__(
        self,
        *,
        store: JobStore,
        refresh: Callable[[Job], Awaitable[Job]],
        render: Callable[[Job], Mapping[str, Any]],
    ) -> None:
        """``refresh`` gives a job a link that works, ``render`` shows it as clients see it."""
        self._store = store
        self._refresh = refresh
        self._render = render

    async def __call__(self, delivery: Delivery) -> Written:
        job = await self._refresh(await self._load(delivery.job_id))
        if not tells_of(delivery.type, job.status):
            raise Unreadable(f"The job is {job.status} now; the message is of another end.")
        body = self._body(delivery.type, job)
        if len(body) > MOST_WITH_FILES:
            body = self._body(delivery.type, job.evolve(files=()))
        return Written(job=job, body=body)

    async def _load(self, job_id: str) -> Job:
        try:
            return await self._load_whole(job_id)
        except (ValueError, TypeError, LookupError) as exc:
            raise Unreadable("The job cannot be read by this version of the server.") from exc

    async def _load_whole(self, job_id: str) -> Job:
        try:
            return await self._store.load(job_id, files=True)
        except (ValueError, TypeError, LookupError):
            # The files alone may be what cannot be read.
            return await self._store.load(job_id)

    def _body(self, kind: str, job: Job) -> bytes:
        news = {
            "type": kind,
            "timestamp": iso8601(job.completed_at or job.updated_at),
            "data": self._render(job),
        }
        # ASCII, so that any string survives.
        return json.dumps(news, separators=(",", ":")).encode()


def tells_of(kind: str, status: JobStatus) -> bool:
    """Whether a message of this type is true of a job in this status."""
    ended = JobStatus.COMPLETED if status is JobStatus.EXPIRED else status
    return kind == f"download.{ended}"
