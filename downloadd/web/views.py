"""A job as clients see it: the canonical resource (SPEC §2). One job, several shapes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from downloadd.model import Archive, FileEntry, FileStatus, Job, JobStatus, Link, iso8601
from downloadd.urls import redact

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def dumps(value: Any) -> str:
    """Encode compactly; clients get UTF-8."""
    return _ENCODER.encode(value)


def etag(body: bytes) -> str:
    """A strong validator of exactly these bytes (RFC 9110 §8.8.3), without quotes."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def job_paths(job_id: str) -> dict[str, str]:
    """Where to go on from a job."""
    return {
        "subscribeUrl": f"/v1/download/subscribe/{job_id}",
        "statusUrl": f"/v1/download/status/{job_id}",
        "resultUrl": f"/v1/download/result/{job_id}",
    }


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


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else iso8601(seconds)


def _processing_ms(job: Job) -> int | None:
    if job.started_at is None or job.completed_at is None:
        return None
    return max(0, round((job.completed_at - job.started_at) * 1000))
