"""What callers may do with the messages that tell of their jobs' ends: look them up, send again."""

from __future__ import annotations

from collections.abc import Sequence

from downloadd.access.caller import Caller
from downloadd.jobs.service import JobService
from downloadd.model import Job
from downloadd.ports import Message, Outbox


class Deliveries:
    def __init__(self, service: JobService, outbox: Outbox) -> None:
        self._service = service
        self._outbox = outbox

    async def of(self, job_id: str, caller: Caller) -> tuple[Job, Sequence[Message]]:
        """A job that the caller may see, and the messages of its ends. ``JobNotFound``."""
        job = await self._service.get(job_id, caller)
        return job, await self._outbox.messages(job_id)

    async def replay(self, job_id: str, caller: Caller) -> tuple[Job, Sequence[Message]]:
        """Send the last message again, now, under the same id; its schedule begins anew.

        Raises ``JobNotFound``, and ``JobConflict`` where there is none, the
        job has not ended, or the message is on its way just now.
        """
        await self._service.get(job_id, caller)
        await self._outbox.replay(job_id)
        return await self.of(job_id, caller)
