"""Is everything there that this server depends on?"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from downloadd.jobs.probe import Probe

#: How long ``known`` waits, and how old what it says may be.
PATIENCE_SECONDS, AGE_SECONDS = 0.01, 60.0


class Disk:
    """The file system of a folder, asked by one thread at a time: a disk may hang for ever."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._looking: asyncio.Future[tuple[int, int] | None] | None = None

    async def room(self, seconds: float) -> tuple[int, int] | None:
        """Its size and what is free, in bytes; None where it does not say so soon."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_future()
            # No executor's: its threads are waited for when the process ends.
            threading.Thread(target=self._look, args=(self._looking,), daemon=True).start()
        done, _ = await asyncio.wait({self._looking}, timeout=seconds)
        return self._looking.result() if done else None

    def _look(self, looking: asyncio.Future[tuple[int, int] | None]) -> None:
        try:
            usage = shutil.disk_usage(self._folder)
            found: tuple[int, int] | None = (usage.total, usage.free)
        except OSError:
            found = None
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            looking.get_loop().call_soon_threadsafe(looking.set_result, found)


class Health:
    """What all probes say together."""

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self._probes = probes

    async def known(self) -> Mapping[str, bool | None]:
        """Say at once what is known of each; None where it was last looked at long ago.

        A dependency that does not answer is told of the next time; never raises.
        """
        looks = (probe.recent(PATIENCE_SECONDS, AGE_SECONDS) for probe in self._probes.values())
        return dict(zip(self._probes, await asyncio.gather(*looks), strict=True))

    async def results(self) -> Mapping[str, bool]:
        """Say of each dependency whether it is well; never raises."""
        answers = await asyncio.gather(*(probe.result() for probe in self._probes.values()))
        return dict(zip(self._probes, answers, strict=True))
