"""Jobs, their files, and the moves that are allowed. Pure: no I/O, no clock.

Records are frozen and keyword-only; ``evolve()`` gives a changed copy. Times
are seconds since the epoch (UTC), sizes are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from downloadd.errors import IllegalTransition


class JobStatus(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        """Whether no worker will touch the job again by itself."""
        return self not in (JobStatus.QUEUED, JobStatus.PROCESSING)


#: Processes that died with a job: from here on it is worked on beside no other such,
#: and then not at all.
SUSPECT_DEATHS, POISON_DEATHS = 2, 3


class Stage(StrEnum):
    """What a processing job is mainly busy with."""

    FETCHING = "fetching"
    ARCHIVING = "archiving"
    UPLOADING = "uploading"
    FINISHING = "finishing"


class FileStatus(StrEnum):
    PENDING = "pending"
    FETCHING = "fetching"
    COMPLETED = "completed"
    FAILED = "failed"


class OnError(StrEnum):
    """What a file that failed for good does to its job."""

    FAIL = "fail"
    SKIP = "skip"


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Form(StrEnum):
    """How a job was asked for, by which it answers (SPEC §6)."""

    CANONICAL = "canonical"
    #: Through ``/v1/export``.
    EXPORT = "export"
    #: By the id of its one file.
    FILE = "file"


class EventType(StrEnum):
    STATUS = "status"
    PROGRESS = "progress"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in (EventType.COMPLETE, EventType.FAILED, EventType.CANCELLED)


#: Every move a job may make; anything else is refused and changes nothing.
TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.PROCESSING, JobStatus.CANCELLED}),
    JobStatus.PROCESSING: frozenset(
        {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED},
    ),
    JobStatus.COMPLETED: frozenset({JobStatus.EXPIRED}),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),
    JobStatus.EXPIRED: frozenset(),
}


def check_transition(old: JobStatus, new: JobStatus) -> None:
    """Raise ``IllegalTransition`` unless a job may go from ``old`` to ``new``."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(f"A {old} job cannot become {new}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Base of the records below."""

    def evolve(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source(Record):
    """One file as it was asked for."""

    #: Where it is fetched from, whole, with its query (which may be a secret);
    #: for a stored one its name, ``storage:///`` and the key.
    url: str
    #: The object that it is, where it lies in our own storage.
    key: str | None = None
    #: The caller's own number for it.
    file_id: int | None = None
    #: The path in the archive that the caller asks for.
    name: str | None = None
    #: What the caller knows about the bytes: lower-case hex digests, bytes.
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    #: Sent to the source with the request (which may be secrets).
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry(Record):
    """One file of a job: what was asked, and how it went."""

    #: Position in the list that was asked for, from 0.
    index: int
    source: Source
    status: FileStatus = FileStatus.PENDING
    #: The name in the archive, once it is settled.
    name: str | None = None
    size: int | None = None
    sha256: str | None = None
    #: Requests made for it so far.
    attempts: int = 0
    #: While it is being fetched: bytes received so far.
    bytes_fetched: int = 0
    fetched_at: float | None = None
    error: str | None = None
    error_code: str | None = None

    @property
    def label(self) -> str:
        """What users know the file by: its id, else its place in the list from 1."""
        return str(self.source.file_id if self.source.file_id is not None else self.index + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Record):
    """How the archive is to be made (SPEC "Initiate")."""

    compress: bool = True
    on_error: OnError = OnError.FAIL
    manifest: bool = False
    #: The archive's file name for the user; None: derived from the job's id.
    file_name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive(Record):
    """The finished archive in object storage."""

    key: str
    size: int
    sha256: str
    file_name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Deposit(Record):
    """Something that a job has put somewhere."""

    job_id: str
    #: Of an object or an upload; empty for a folder.
    key: str = ""


class Standing(StrEnum):
    """What is still to become of a deposit."""

    #: Its job is queued or processing, or failed and may be gone on with.
    LIVING = "living"
    #: It is the archive of a completed job, or one whose time is not over.
    KEPT = "kept"
    #: Nobody will ask for it again.
    ORPHAN = "orphan"


@dataclass(frozen=True, kw_only=True, slots=True)
class Link(Record):
    """A signed address of an archive."""

    url: str
    expires_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Job(Record):
    """A job as it stands at one moment."""

    #: UUID v4.
    id: str
    user: str = "anonymous"
    form: Form = Form.CANONICAL
    #: Of a job in the form FILE.
    file_id: int | None = None
    options: Options = field(default_factory=Options)
    #: Empty where a job was loaded without its files; ``total_files`` counts them.
    files: tuple[FileEntry, ...] = ()
    total_files: int

    status: JobStatus = JobStatus.QUEUED
    stage: Stage | None = None
    progress: int = 0
    files_completed: int = 0
    files_failed: int = 0
    #: Label of the file last worked on.
    current_file: str | None = None
    bytes_fetched: int = 0
    #: None until the size of every file is known.
    bytes_total: int | None = None

    created_at: float
    updated_at: float
    started_at: float | None = None
    completed_at: float | None = None
    #: How often a worker has begun it.
    attempts: int = 0

    archive: Archive | None = None
    #: The link as it was signed last; views sign anew when it is past its time.
    link: Link | None = None
    #: Files were left out under ``OnError.SKIP``.
    partial: bool = False
    error: str | None = None
    error_code: str | None = None

    #: The span of the request that made the job, as W3C Trace Context has it.
    traceparent: str | None = None
    #: The span of the worker that has it, or of what came last: an earlier run, or
    #: the request that it was retried by.
    run_traceparent: str | None = None
    #: Seconds for the whole job, waiting included, as said when it was made.
    estimated_time: int | None = None
    #: Seconds of work left as of ``updated_at``; those in the queue not counted.
    work_left: float | None = None
    #: Filled in for readers while the job is queued: seconds until it is begun, and as
    #: of when.
    wait: float | None = None
    wait_at: float | None = None
    #: Who is told of the job's end; may hold secrets.
    callback_url: str | None = field(default=None, repr=False)
    #: Filled in by the store while the job is queued: 1 is next.
    queue_position: int | None = None
    #: Filled in by the store: id of the last event in the job's stream when it was read.
    cursor: str | None = None

    def log_context(self) -> dict[str, Any]:
        """What logs may say about the job: no URL, no metadata."""
        return {"jobId": self.id, "userId": self.user}

    @property
    def trace_id(self) -> str | None:
        """The OpenTelemetry trace of the request that made the job, 32 hex digits."""
        return self.traceparent.split("-")[1] if self.traceparent else None

    @property
    def archive_name(self) -> str:
        """What the archive is called, for those who save it."""
        return self.options.file_name or f"{self.id}.zip"

    @property
    def remaining(self) -> int | None:
        """Whole seconds to the job's end; None when that is not known, or past."""
        if self.status.ended or self.work_left is None:
            return None
        if self.status is JobStatus.PROCESSING:
            return whole_seconds(self.work_left)
        return None if self.wait is None else whole_seconds(self.wait + self.work_left)

    @property
    def completion(self) -> float | None:
        """When the job is expected to end; changes with what is known of it, not with time."""
        if (remaining := self.remaining) is None:
            return None
        return max(self.updated_at, self.wait_at or 0.0) + remaining

    def moved(self, status: JobStatus, **changes: Any) -> Job:
        """Return the job in another status; ``IllegalTransition`` where that may not be."""
        check_transition(self.status, status)
        return self.evolve(status=status, **changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event(Record):
    """Something that subscribers of a job are told."""

    type: EventType
    #: JSON-ready, camelCase (SPEC §5).
    data: Mapping[str, Any]
    #: Position in the job's stream, given by the store; opaque, increasing.
    id: str | None = None


def progress_percent(total: int, done: int, fractions: Iterable[float] = ()) -> int:
    """Whole percents of ``total`` files when ``done`` are done and others are under way.

    ``fractions`` says of each file under way how much of it is there, from 0
    to 1. Only a completed job is at 100, so this ends at 99.
    """
    if total <= 0:
        return 0
    share = (done + sum(min(max(part, 0.0), 1.0) for part in fractions)) / total
    return min(99, int(share * 100 + 0.5))


#: Nothing sensible can be said of more seconds than these.
LONGEST_ESTIMATE = 7 * 86_400.0


def whole_seconds(seconds: float | None) -> int | None:
    """Seconds as users are told them: a whole number from 1; None where they make no sense."""
    if seconds is None or math.isnan(seconds) or seconds > LONGEST_ESTIMATE:
        return None
    return max(1, math.ceil(seconds))


def progress_event(job: Job) -> Event:
    """The ``progress`` event of a job as it stands (SPEC §5)."""
    return Event(type=EventType.PROGRESS, data=event_data(job))


_TERMINAL_EVENTS: Mapping[JobStatus, EventType] = {
    JobStatus.COMPLETED: EventType.COMPLETE,
    JobStatus.FAILED: EventType.FAILED,
    JobStatus.CANCELLED: EventType.CANCELLED,
    JobStatus.EXPIRED: EventType.COMPLETE,
}


def terminal_event(job: Job) -> Event:
    """The last event of an ended job."""
    data = event_data(job)
    if job.archive is not None and job.link is not None:
        data |= {
            "downloadUrl": job.link.url,
            "expiresAt": iso8601(job.link.expires_at),
            "totalSize": job.archive.size,
            "fileName": job.archive.file_name,
            "sha256": job.archive.sha256,
        }
    if job.partial:
        data["partial"] = True
    if job.error is not None:
        data |= {"error": job.error, "errorCode": job.error_code}
    return Event(type=_TERMINAL_EVENTS[job.status], data=data)


def event_data(job: Job) -> dict[str, Any]:
    """What every event says of its job."""
    return {
        "jobId": job.id,
        "status": job.status.value,
        "progress": job.progress,
        "filesCompleted": job.files_completed,
        "filesFailed": job.files_failed,
        "totalFiles": job.total_files,
        "currentFile": job.current_file,
        "stage": job.stage.value if job.stage else None,
        "bytesFetched": job.bytes_fetched,
        "bytesTotal": job.bytes_total,
        "estimatedTimeRemaining": job.remaining,
    }


def iso8601(seconds: float) -> str:
    """Format seconds since the epoch as UTC with milliseconds and a ``Z``."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
