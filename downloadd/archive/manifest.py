"""``manifest.json``: what is in an archive, where it came from, and what is missing."""

from __future__ import annotations

import json
from typing import Any

from downloadd.model import FileEntry, FileStatus, Job, iso8601
from downloadd.urls import redact

#: The manifest's name in the archive.
MANIFEST_NAME = "manifest.json"
#: The manifest's ``Entry.index``.
MANIFEST_INDEX = -1


def manifest(job: Job) -> bytes:
    """Describe a job whose files have all ended, as indented JSON in UTF-8.

    The same job gives the same bytes. URLs are without user names, passwords
    and query values.
    """
    packed = [file for file in job.files if file.status is FileStatus.COMPLETED]
    document = {
        "jobId": job.id,
        "createdAt": iso8601(job.created_at),
        "metadata": dict(job.options.metadata),
        "totalFiles": len(job.files),
        "filesCompleted": len(packed),
        "filesFailed": len(job.files) - len(packed),
        "totalBytes": sum(file.size or 0 for file in packed),
        "files": [_described(file) for file in job.files],
    }
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    # A lone surrogate, which UTF-8 cannot hold, becomes its JSON escape.
    return text.encode("utf-8", "backslashreplace")


def _described(file: FileEntry) -> dict[str, Any]:
    about: dict[str, Any] = {
        "fileId": file.source.file_id,
        "name": file.name,
        "url": redact(file.source.url),
        "status": file.status.value,
    }
    if file.status is FileStatus.COMPLETED:
        fetched = iso8601(file.fetched_at) if file.fetched_at is not None else None
        return about | {"size": file.size, "sha256": file.sha256, "fetchedAt": fetched}
    return about | {"error": file.error, "errorCode": file.error_code}
