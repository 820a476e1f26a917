"""What events are called, by who listens (SPEC §5, §6). Stored types are the canonical ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from downloadd.model import Event, EventType

#: Types that are called otherwise than they are stored.
Names = Mapping[EventType, str]

CANONICAL: Names = {}
#: Of jobs made through ``/v1/export``, and of its own stream.
EXPORT: Names = {EventType.COMPLETE: "completed"}
#: Of ``/v1/download/stream`` and of WebSockets: four types for everything.
FOUR: Names = {EventType.FAILED: "error", EventType.CANCELLED: "status"}


async def telling_status(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """The same events; of progress that brings another status, the type is ``status``.

    Who listens to four types learns of a job's begin from nothing else.
    """
    status: object = None
    async with aclosing(events):
        async for event in events:
            known, status = status, event.data["status"]
            changed = event.type is EventType.PROGRESS and status != known
            yield event.evolve(type=EventType.STATUS) if changed else event
