"""That nothing is left of a job but its archive."""

from __future__ import annotations

import asyncio

from tests.e2e.service import Service, Storage, eventually

#: Seconds for what is removed on the way.
SOON = 1.0


async def assert_nothing_left(server: Service, storage: Storage) -> bool:
    """No temporary file, no open upload, and one object; whether the next start had to see to it.

    What a killed process made and could not tell anybody of (an upload that no
    checkpoint names, the object of a lost answer) nobody knows before the
    storage is looked through, as at each start.
    """
    await eventually(lambda: server.spool() == {}, what="no temporary file is left")
    for _ in range(10):
        if not await left(storage):
            return False
        await asyncio.sleep(SOON / 10)
    await server.stop()
    await server.start()
    await eventually(lambda: _tidy(storage), what="only the archive is left in the storage")
    return True


async def _tidy(storage: Storage) -> bool:
    return not await left(storage)


async def left(storage: Storage) -> list[str]:
    """What is in the storage besides one object."""
    objects = await storage.objects()
    uploads = await storage.parts()
    return [*uploads, *objects[1:]] if objects else ["no object"]
