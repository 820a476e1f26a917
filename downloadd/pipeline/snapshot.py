"""A running job as it stands at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from downloadd.model import FileEntry, FileStatus, Job, Record, Stage, progress_percent
from downloadd.pipeline.fetching import FileFetch
from downloadd.pipeline.flight import Flight
from downloadd.pipeline.packing import Packing
from downloadd.ports import Transfer


@dataclass(frozen=True, kw_only=True, slots=True)
class Step(Record):
    """Something to write down."""

    job: Job
    #: Files whose state has become final since the last step.
    files: tuple[FileEntry, ...] = ()
    #: Present when it has changed.
    checkpoint: str | None = None
    #: The fetches under way, by their files' indices.
    flights: Mapping[int, Flight] = field(default_factory=dict)
    #: How the files came that have arrived since the last step.
    transfers: tuple[Transfer, ...] = ()


def snapshot(
    job: Job,
    stage: Stage,
    packing: Packing,
    under_way: Iterable[tuple[int, FileFetch]],
) -> Job:
    """The job with its files as they are now: what is packed, has failed, or is coming.

    ``job`` is as it was told of last; its progress never goes back.
    """
    files, fractions = dict(packing.files), []
    for index, fetch in under_way:
        if index in packing.again:
            continue
        size = fetch.size
        files[index] = files[index].evolve(
            status=FileStatus.FETCHING,
            size=size,
            attempts=fetch.attempts,
            bytes_fetched=fetch.received,
        )
        if size:
            fractions.append(fetch.received / size)
    entries = tuple(files.values())
    completed = sum(entry.status is FileStatus.COMPLETED for entry in entries)
    failed = sum(entry.status is FileStatus.FAILED for entry in entries)
    sizes = [entry.size for entry in entries if entry.status is not FileStatus.FAILED]
    progress = progress_percent(len(entries), completed + failed, fractions)
    return job.evolve(
        files=entries,
        stage=stage,
        progress=max(job.progress, progress),
        files_completed=completed,
        files_failed=failed,
        partial=failed > 0,
        current_file=packing.current,
        bytes_total=None if None in sizes else sum(size for size in sizes if size),
    )
