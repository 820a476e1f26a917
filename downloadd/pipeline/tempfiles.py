"""Temporary files of jobs, each used by one payload after the other.

A file that is made, written and removed takes fresh memory from the kernel for
every page; one that is overwritten has its pages already. With files of the
usual sizes that was a fifth of the CPU of a job.
"""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from downloadd.pipeline.budget import DiskBudget, Reservation
from downloadd.tasks import in_thread

log = structlog.get_logger(__name__)

#: A file larger than this is removed after its use: the memory of its pages
#: would not stay its own for long.
_LARGEST_SPARE = 32 << 20
#: Spare files that a job keeps: as many as it fetches at once, by default.
_SPARES = 8


@dataclass(slots=True, eq=False)
class TempFile:
    """A file that one payload uses. What lies behind the payload's end is somebody else's."""

    job_id: str
    path: Path
    #: Covers all bytes that the file has on disk.
    reservation: Reservation
    #: Bytes on disk: the most that were ever written.
    written: int = 0

    def fit(self, size: int) -> None:
        """Give back what is reserved above ``size`` bytes and is not on disk."""
        self.reservation.shrink(max(size, self.written))


class TempFiles:
    """The temporary files of all jobs, one folder a job."""

    def __init__(self, root: Path, executor: Executor, disk: DiskBudget) -> None:
        self._root = root
        self._executor = executor
        self._disk = disk
        #: By job: files made so far. Jobs that are not here have no folder.
        self._made: dict[str, int] = {}
        self._spares: dict[str, list[TempFile]] = {}
        disk.on_shortage(self._drop_spares)

    async def take(self, job_id: str, size: int) -> TempFile:
        """A file for ``size`` bytes, which are reserved; waits for room."""
        if (spare := self._spare(job_id, size)) is not None:
            return spare
        reservation = await self._disk.reserve(size)
        number = self._made[job_id] = self._made.get(job_id, 0) + 1
        return TempFile(job_id, self._root / job_id / str(number), reservation)

    def _spare(self, job_id: str, size: int) -> TempFile | None:
        spares = self._spares.get(job_id, [])
        for place, file in enumerate(spares):
            if file.reservation.size >= size:
                return spares.pop(place)
        return None

    async def give_back(self, file: TempFile, *, keep: bool = True) -> None:
        """Take a file that nobody uses any more; its bytes are forgotten.

        ``keep`` it for the job's next payload, where that is worth while.
        """
        if keep and self._worth_keeping(file):
            file.fit(0)
            self._spares.setdefault(file.job_id, []).append(file)
            return
        try:
            await in_thread(self._executor, file.path.unlink, True)
        finally:
            file.reservation.release()

    def _worth_keeping(self, file: TempFile) -> bool:
        return (
            0 < file.written <= _LARGEST_SPARE
            and file.job_id in self._made
            and len(self._spares.get(file.job_id, ())) < _SPARES
            and not self._disk.short
        )

    def _drop_spares(self) -> None:
        """Make room for somebody who waits for it."""
        spares, self._spares = self._spares, {}
        loop = asyncio.get_running_loop()
        for file in (file for files in spares.values() for file in files):
            removal = loop.run_in_executor(self._executor, file.path.unlink, True)
            removal.add_done_callback(partial(_removed, file))

    async def clear(self, job_id: str) -> None:
        """Remove what is left of a job."""
        if job_id not in self._made:  # small jobs leave nothing, and need no thread
            return
        try:
            await in_thread(self._executor, shutil.rmtree, self._root / job_id, True)
        finally:
            del self._made[job_id]
            for file in self._spares.pop(job_id, ()):
                file.reservation.release()


def _removed(file: TempFile, removal: asyncio.Future[None]) -> None:
    file.reservation.release()
    if not removal.cancelled() and (error := removal.exception()) is not None:
        log.warning("spool.spare_left", jobId=file.job_id, error=str(error))
