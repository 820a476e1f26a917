"""A job as clients see it: the canonical resource (SPEC §2) and its other shapes (§6)."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any

from downloadd.jobs.preflight import Outlined, Prospect
from downloadd.model import Archive, FileEntry, FileStatus, Form, Job, JobStatus, Link, iso8601
from downloadd.ports import Attempt, Message
from downloadd.urls import redact

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def dumps(value: Any) -> str:
    """Encode compactly; clients get UTF-8."""
    return _ENCODER.encode(value)


def etag(body: bytes) -> str:
    """What a validator of this answer says (RFC 9110 §8.8.3), without quotes."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


class Case(StrEnum):
    """How the names in an answer are written."""

    CAMEL = "camel"
    SNAKE = "snake"


_HUMP = re.compile(r"(?<=[a-z0-9])[A-Z]")


@cache
def snake_name(name: str) -> str:
    """A name in snake_case."""
    return _HUMP.sub(lambda hump: f"_{hump[0].lower()}", name)


def snake(view: Any) -> Any:
    """A view with all its names in snake_case, however deep."""
    if isinstance(view, list):
        return [snake(item) for item in view]
    if isinstance(view, dict):
        return {snake_name(name): snake(value) for name, value in view.items()}
    return view


def in_case(view: dict[str, Any], job: Job, case: Case | None = None) -> dict[str, Any]:
    """A view of a job in the case asked for, else in the one that the job was asked for in."""
    if case is None:
        case = Case.SNAKE if job.form is Form.FILE else Case.CAMEL
    named: dict[str, Any] = snake(view) if case is Case.SNAKE else view
    return named


def job_paths(job_id: str) -> dict[str, str]:
    """Where to go on from a job."""
    return {
        "subscribeUrl": f"/v1/download/subscribe/{job_id}",
        "statusUrl": f"/v1/download/status/{job_id}",
        "resultUrl": f"/v1/download/result/{job_id}",
    }


def export_path(job_id: str) -> str:
    """Where a job made through ``/v1/export`` is polled."""
    return f"/v1/export/{job_id}"


def managed_path(job_id: str) -> str:
    """Where the manager of seeds/004 polls a job."""
    return f"/v1/download/job/{job_id}"


def status_path(job_id: str) -> str:
    """Where a job is polled in its canonical form."""
    return job_paths(job_id)["statusUrl"]


def job_view(job: Job, *, files: bool = False) -> dict[str, Any]:
    """The job resource; what is not known yet is left out, but for two nulls:
    ``bytesTotal`` and, until the job has ended, ``estimatedTimeRemaining``.

    The list of files is there when the job has ended or ``files`` asks for
    it; the job must have been loaded with its files then.
    """
    view: dict[str, Any] = {
        "jobId": job.id,
        "status": job.status.value,
        "progress": job.progress,
        "totalFiles": job.total_files,
        "totalFileIds": job.total_files,
        "filesCompleted": job.files_completed,
        "filesFailed": job.files_failed,
        "bytesFetched": job.bytes_fetched,
        "bytesTotal": job.bytes_total,
        "createdAt": iso8601(job.created_at),
        "updatedAt": iso8601(job.updated_at),
        "attempts": job.attempts,
        **job_paths(job.id),
    }
    known = {
        "stage": job.stage.value if job.stage and job.status is JobStatus.PROCESSING else None,
        "currentFile": job.current_file,
        "queuePosition": job.queue_position if job.status is JobStatus.QUEUED else None,
        "startedAt": _time(job.started_at),
        "completedAt": _time(job.completed_at),
        "processingTimeMs": _processing_ms(job),
        "estimatedTime": job.estimated_time,
        "estimatedCompletion": _time(job.completion),
        "error": job.error,
        "errorCode": job.error_code,
        "traceId": job.trace_id,
        "fileId": job.file_id,
    }
    view |= {name: value for name, value in known.items() if value is not None}
    if not job.status.ended:
        view["estimatedTimeRemaining"] = job.remaining
    if job.archive is not None and job.status is JobStatus.COMPLETED:
        view |= _archive_view(job.archive, job.link)
        view["partial"] = job.partial
    if job.files and (files or job.status.ended):
        view["files"] = [file_view(file) for file in job.files]
    return view


def _archive_view(archive: Archive, link: Link | None) -> dict[str, Any]:
    view: dict[str, Any] = {
        "totalSize": archive.size,
        "fileName": archive.file_name,
        "sha256": archive.sha256,
    }
    if link is not None:
        view |= {"downloadUrl": link.url, "expiresAt": iso8601(link.expires_at)}
    return view


def file_view(file: FileEntry) -> dict[str, Any]:
    """One file of a job; its URL without user, password and query values."""
    view: dict[str, Any] = {
        "fileId": file.label,
        "originalUrl": redact(file.source.url),
        "processed": file.status is FileStatus.COMPLETED,
        "status": file.status.value,
        "attempts": file.attempts,
    }
    known: dict[str, Any] = {
        "name": file.name,
        "size": file.size,
        "sha256": file.sha256,
        "error": file.error,
        "errorCode": file.error_code,
    }
    if file.status is FileStatus.FETCHING:
        known["bytesFetched"] = file.bytes_fetched
    return view | {name: value for name, value in known.items() if value is not None}


def result_view(job: Job, archive: Archive, link: Link) -> dict[str, Any]:
    """Where the archive of a completed job is, and what it is."""
    return {
        "jobId": job.id,
        "downloadUrl": link.url,
        "expiresAt": iso8601(link.expires_at),
        "fileSize": archive.size,
        "fileName": archive.file_name,
        "sha256": archive.sha256,
    }


# --- the form of seeds/004 ---------------------------------------------------------

_MANAGED_STATUS: Mapping[JobStatus, str] = {JobStatus.COMPLETED: "ready"}
_MANAGED_FILE: Mapping[FileStatus, str] = {FileStatus.FETCHING: FileStatus.PENDING.value}


def progress_view(job: Job) -> dict[str, Any]:
    """How far a job is: files, percents, and milliseconds to go."""
    remaining = job.remaining
    return {
        "current": job.files_completed + job.files_failed,
        "total": job.total_files,
        "percentage": job.progress,
        "estimatedTimeRemaining": None if remaining is None else remaining * 1000,
    }


def managed_view(job: Job, *, files: bool = True) -> dict[str, Any]:
    """The job as its manager polls it; the job must have been loaded with its files."""
    view: dict[str, Any] = {
        "jobId": job.id,
        "status": _MANAGED_STATUS.get(job.status, job.status.value),
        "progress": progress_view(job),
        "filesProcessed": [_managed_file(file) for file in job.files] if files else [],
        "createdAt": iso8601(job.created_at),
        "updatedAt": iso8601(job.updated_at),
    }
    if job.error is not None:
        view |= {"error": job.error, "errorCode": job.error_code}
    return view


def _managed_file(file: FileEntry) -> dict[str, Any]:
    view: dict[str, Any] = {
        # As in ``label``, but a number.
        "file_id": int(file.label),
        "status": _MANAGED_FILE.get(file.status, file.status.value),
    }
    return view if file.error is None else view | {"error": file.error}


def managed_retry_view(job: Job) -> dict[str, Any]:
    """What the manager goes on with when a job is queued once more."""
    return {
        "jobId": job.id,
        "status": job.status.value,
        "message": "The job is queued again.",
        "progress": progress_view(job),
    }


def managed_link_view(
    job: Job, archive: Archive, link: Link, *, bucket: str, now: float
) -> dict[str, Any]:
    """Where the archive is, and for how many seconds from ``now`` the link works."""
    return {
        "jobId": job.id,
        "downloadUrl": link.url,
        "expiresIn": max(0, math.floor(link.expires_at - now)),
        "fileSize": archive.size,
        "bucket": bucket,
    }


# --- the old synchronous call -------------------------------------------------------


def start_view(job: Job, trace_id: str) -> dict[str, Any]:
    """How a job of one file ended, to the caller who waited for it.

    What gave no archive has failed; the message says in which way.
    """
    done = job.status is JobStatus.COMPLETED and job.archive is not None
    milliseconds = _processing_ms(job) or 0
    message = f"Download ready after {milliseconds / 1000:.1f} seconds"
    if not done:
        said = job.error or f"The job was {job.status}."
        message = f"{said.rstrip('.')} after {milliseconds / 1000:.1f} seconds of processing"
    return {
        "file_id": job.file_id,
        "status": (JobStatus.COMPLETED if done else JobStatus.FAILED).value,
        "downloadUrl": job.link.url if done and job.link else None,
        "size": job.archive.size if done and job.archive else None,
        "processingTimeMs": milliseconds,
        "message": message,
        "traceId": trace_id,
    }


def availability_view(found: Prospect, trace_id: str) -> dict[str, Any]:
    """Whether one file is there; of one behind a template there is no key."""
    source, there = found.entry.source, found.reachable is True
    return {
        "file_id": source.file_id,
        "available": there,
        "s3Key": source.key if there else None,
        "size": found.size,
        "traceId": trace_id,
    }


def preflight_view(outlined: Outlined, trace_id: str) -> dict[str, Any]:
    """A job that is not made."""
    return {
        "files": [_prospect_view(file) for file in outlined.files],
        "totalFiles": len(outlined.files),
        "totalSize": outlined.total_size,
        "estimatedTime": outlined.estimated_time,
        "traceId": trace_id,
    }


def _prospect_view(file: Prospect) -> dict[str, Any]:
    view: dict[str, Any] = {
        "fileId": file.entry.label,
        "url": redact(file.entry.source.url),
        "reachable": file.reachable,
        "size": file.size,
        "blocked": file.blocked,
        "name": file.name,
    }
    known = {"contentType": file.content_type, "error": file.error, "errorCode": file.error_code}
    return view | {name: value for name, value in known.items() if value is not None}


# --- how callers were told ------------------------------------------------------------


def deliveries_view(job: Job, messages: Sequence[Message]) -> dict[str, Any]:
    """Who is told of the job's ends, and how that went."""
    return {
        "jobId": job.id,
        "callbackUrl": None if job.callback_url is None else redact(job.callback_url),
        "deliveries": [_message_view(message) for message in messages],
    }


def _message_view(message: Message) -> dict[str, Any]:
    view = {
        "id": message.id,
        "type": message.type,
        "status": message.status.value,
        "createdAt": iso8601(message.created_at),
        "attempts": [_attempt_view(attempt) for attempt in message.attempts],
    }
    if message.next_at is not None:
        view["nextAttemptAt"] = iso8601(message.next_at)
    return view


def _attempt_view(attempt: Attempt) -> dict[str, Any]:
    view = {
        "at": iso8601(attempt.at),
        "durationMs": round(attempt.duration * 1000),
        "status": attempt.status,
        "error": attempt.error,
    }
    return {name: value for name, value in view.items() if value is not None}


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else iso8601(seconds)


def _processing_ms(job: Job) -> int | None:
    if job.started_at is None or job.completed_at is None:
        return None
    return max(0, round((job.completed_at - job.started_at) * 1000))
