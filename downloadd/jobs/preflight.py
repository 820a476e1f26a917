"""What would become of a job, without making it: each file is asked for, none is fetched."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from downloadd.archive import MANIFEST_NAME
from downloadd.errors import (
    AddressBlocked,
    DownloaddError,
    FileError,
    FileTooLarge,
    SizeMismatch,
    StateError,
    StorageUnavailable,
)
from downloadd.model import FileEntry, Record, Source
from downloadd.naming import Names
from downloadd.pipeline import FetchSlots
from downloadd.ports import SourceDescriber, SourceFacts
from downloadd.tasks import stopped
from downloadd.urls import host_of

log = structlog.get_logger(__name__)

#: Seconds that one file may take once it is its turn.
PATIENCE = 5.0

_TIMEOUT = "timeout"
_NO_ANSWER = "There was no answer in the time that a check takes; a job would wait longer."


@dataclass(frozen=True, kw_only=True, slots=True)
class Prospect(Record):
    """One file of a job that is not made."""

    entry: FileEntry
    #: The name that it would have in the archive.
    name: str
    #: Whether there is such a file; None where there was no answer in time.
    reachable: bool | None = None
    #: Its address may not be fetched.
    blocked: bool = False
    #: Bytes, as far as it is said.
    size: int | None = None
    content_type: str | None = None
    error: str | None = None
    error_code: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlined(Record):
    """A job that is not made."""

    files: Sequence[Prospect]
    #: Bytes; None where a size is not known.
    total_size: int | None
    #: Seconds; None where too little was ever measured.
    estimated_time: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer(Record):
    """What came of asking for one file."""

    facts: SourceFacts | None = None
    error: DownloaddError | None = None


class Preflight:
    """Asks for files, for all requests of this process within the same bounds."""

    def __init__(
        self,
        *,
        describer: SourceDescriber,
        estimate: Callable[[Sequence[Source]], Awaitable[int | None]],
        storage_there: Callable[[], Awaitable[bool]],
        total: int,
        per_host: int,
        max_file_bytes: int,
        patience: float = PATIENCE,
    ) -> None:
        """``total`` and ``per_host`` bound the files asked for at once.

        ``estimate`` may raise ``StateError``. ``patience``: seconds for one file.
        """
        self._describer = describer
        self._estimate = estimate
        self._storage_there = storage_there
        self._slots = FetchSlots(total, per_host)
        self._per_host = per_host
        self._max_file_bytes = max_file_bytes
        self._patience = patience

    async def look(self, sources: Sequence[Source], seconds: float) -> Outlined:
        """Ask for every file; what has not answered after so many seconds is not known.

        Raises ``StorageUnavailable`` where that is where files lie.
        """
        answers = await self._answers(sources, seconds)
        names = Names(sources, reserved=(MANIFEST_NAME,))
        files = [
            self._prospect(index, source, answers.get(index), names)
            for index, source in enumerate(sources)
        ]
        sizes = [file.size for file in files if file.size is not None]
        sized = [file.entry.source.evolve(size=file.size) for file in files]
        return Outlined(
            files=files,
            total_size=sum(sizes) if len(sizes) == len(files) else None,
            estimated_time=await self._estimated(sized),
        )

    async def look_at(self, source: Source, seconds: float) -> Prospect:
        """Ask for one file. As ``look``."""
        answers = await self._answers([source], seconds)
        if source.key is not None and not answers:
            raise StorageUnavailable("The storage did not answer; try again in a few seconds.")
        return self._prospect(0, source, answers.get(0), Names([source]))

    async def _answers(self, sources: Sequence[Source], seconds: float) -> dict[int, _Answer]:
        """What each file's source says, by the file's place; those left out say nothing."""
        if any(source.key is not None for source in sources) and not await self._storage_there():
            raise StorageUnavailable("The storage cannot be reached; try again in a few seconds.")
        answers: dict[int, _Answer] = {}
        hosts: dict[str, deque[int]] = defaultdict(deque)
        for index, source in enumerate(sources):
            hosts[host_of(source.url)].append(index)
        # As many tasks as a host has places: one that hangs holds up none but its own.
        tasks = [
            asyncio.create_task(self._ask_in_turn(host, sources, waiting, answers))
            for host, waiting in hosts.items()
            for _ in range(min(self._per_host, len(waiting)))
        ]
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=max(0.0, seconds), return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
        finally:
            await stopped(tasks)
        return answers

    async def _ask_in_turn(
        self,
        host: str,
        sources: Sequence[Source],
        waiting: deque[int],
        answers: dict[int, _Answer],
    ) -> None:
        while waiting:
            index = waiting.popleft()
            async with self._slots.hold(host):
                answer = await self._ask(sources[index])
            if answer is not None:
                answers[index] = answer

    async def _ask(self, source: Source) -> _Answer | None:
        try:
            async with asyncio.timeout(self._patience):
                return _Answer(facts=await self._describer.describe(source))
        except TimeoutError:
            return None
        except FileError as exc:
            return _Answer(error=exc)

    def _prospect(
        self, index: int, source: Source, answer: _Answer | None, names: Names
    ) -> Prospect:
        facts = (answer.facts if answer is not None else None) or SourceFacts()
        prospect = Prospect(
            entry=FileEntry(index=index, source=source),
            name=names.settle(index, facts.file_name),
            content_type=facts.content_type,
        )
        if answer is None:
            return prospect.evolve(error=_NO_ANSWER, error_code=_TIMEOUT)
        error = answer.error or self._objection(source, facts)
        if answer.error is None:
            size = facts.size if facts.size is not None else source.size
            prospect = prospect.evolve(reachable=True, size=size)
        else:
            prospect = prospect.evolve(reachable=False)
        return prospect.evolve(
            blocked=isinstance(error, AddressBlocked),
            error=error.message if error is not None else None,
            error_code=error.code if error is not None else None,
        )

    def _objection(self, source: Source, facts: SourceFacts) -> FileError | None:
        """Why a job would not take a file that is there."""
        if facts.size is None:
            return None
        if source.size is not None and facts.size != source.size:
            return SizeMismatch(
                f"The source announces {facts.size} bytes where {source.size} are expected."
            )
        if facts.size > self._max_file_bytes:
            bound = self._max_file_bytes
            return FileTooLarge(f"The file is larger than the {bound} bytes allowed.")
        return None

    async def _estimated(self, sources: Sequence[Source]) -> int | None:
        try:
            return await self._estimate(sources)
        except StateError as exc:
            log.info("preflight.no_estimate", error=exc.message)
            return None
