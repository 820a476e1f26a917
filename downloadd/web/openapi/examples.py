"""Requests and answers as they look: the answers made by the views that make the real ones."""

from __future__ import annotations

from typing import Any

from downloadd.jobs.preflight import Outlined, Prospect
from downloadd.model import (
    Archive,
    EventType,
    FileEntry,
    FileStatus,
    Form,
    Job,
    JobStatus,
    Link,
    Source,
    Stage,
    progress_event,
)
from downloadd.ports import Attempt, DeliveryStatus, Message
from downloadd.web import views

_ID = "5b0ea2a1-7f3d-4c5e-9b7a-0d1c2e3f4a5b"
_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_BEGAN = 1_795_313_632.0
_DIGEST = "2f8c5c1eb56d1c1f4a7b0d9e3c6f8a5b7d2e4c1f0a9b8c7d6e5f4a3b2c1d0e9f"

NEW_JOBS: dict[str, Any] = {
    "files by id and URL": {
        "file_ids": [70000, 70001],
        "source_urls": ["https://files.example/70000.pdf", "https://files.example/70001.pdf"],
        "options": {"fileName": "order-4711.zip", "manifest": True, "metadata": {"order": "4711"}},
        "callback_url": "https://app.example/webhooks/download-complete",
    },
    "URLs alone": {"source_urls": ["https://files.example/a.pdf", "https://files.example/b.pdf"]},
    "the full form": {
        "files": [
            {
                "url": "https://files.example/a.pdf?token=abc",
                "name": "invoices/2026/a.pdf",
                "sha256": _DIGEST,
                "size": 1_048_576,
                "headers": {"Authorization": "Bearer abc"},
            },
        ],
        "options": {"onError": "skip", "priority": "high"},
    },
    "stored files by their ids": {"file_ids": [70000, 70001, 70002]},
    "one stored file": {"file_id": 70000},
}
ONE_FILE: dict[str, Any] = {"one stored file": {"file_id": 70000}}

_ARCHIVE = Archive(key=f"{_ID}.zip", size=8507, sha256=_DIGEST, file_name="order-4711.zip")
_LINK = Link(
    url=f"https://archives.example/{_ID}.zip?X-Amz-Expires=3600&X-Amz-Signature=…",
    expires_at=_BEGAN + 3605,
)
_FILES = tuple(
    FileEntry(
        source=Source(url=f"https://files.example/{number}.pdf", file_id=number),
        index=index,
        status=FileStatus.COMPLETED,
        attempts=1,
        name=f"{number}.pdf",
        size=4096,
        sha256=_DIGEST,
    )
    for index, number in enumerate((70000, 70001))
)
_QUEUED = Job(
    id=_ID,
    total_files=2,
    created_at=_BEGAN,
    updated_at=_BEGAN,
    traceparent=f"00-{_TRACE}-00f067aa0ba902b7-01",
    queue_position=3,
    estimated_time=12,
    work_left=7.5,
    wait=4.0,
    wait_at=_BEGAN,
)
_PROCESSING = _QUEUED.evolve(
    status=JobStatus.PROCESSING,
    stage=Stage.FETCHING,
    progress=60,
    files_completed=1,
    current_file="70001",
    bytes_fetched=4915,
    bytes_total=8192,
    started_at=_BEGAN + 1,
    updated_at=_BEGAN + 3,
    attempts=1,
    work_left=2.0,
)
_COMPLETED = _PROCESSING.evolve(
    status=JobStatus.COMPLETED,
    stage=None,
    progress=100,
    files=_FILES,
    files_completed=2,
    bytes_fetched=8192,
    completed_at=_BEGAN + 5,
    updated_at=_BEGAN + 5,
    archive=_ARCHIVE,
    link=_LINK,
)
_FAILED = _PROCESSING.evolve(
    status=JobStatus.FAILED,
    stage=None,
    files_failed=1,
    completed_at=_BEGAN + 5,
    updated_at=_BEGAN + 5,
    error="File 70001 failed: its server answered 404 Not Found. Check its URL.",
    error_code="source_refused",
)
_ONE = _QUEUED.evolve(form=Form.FILE, file_id=70000, total_files=1)
_ONE_COMPLETED = _COMPLETED.evolve(form=Form.FILE, file_id=70000, files=_FILES[:1])


def _in_case(job: Job) -> dict[str, Any]:
    return views.in_case(views.job_view(job), job)


NEW_JOB: dict[str, Any] = {"a new job": _in_case(_QUEUED), "made by one `file_id`": _in_case(_ONE)}
JOB: dict[str, Any] = {
    "processing": _in_case(_PROCESSING),
    "completed": _in_case(_COMPLETED),
    "failed": _in_case(_FAILED),
    "queued, made by one `file_id`": _in_case(_ONE),
}
CANCELLED: dict[str, Any] = {
    "cancelled": _in_case(_QUEUED.evolve(status=JobStatus.CANCELLED, completed_at=_BEGAN + 2))
}
RETRIED: dict[str, Any] = {"queued again": _in_case(_QUEUED.evolve(attempts=1))}
JOB_LIST: dict[str, Any] = {
    "a page": {"jobs": [_in_case(_PROCESSING), _in_case(_ONE)], "total": 2, "page": 1, "limit": 20}
}
RESULT: dict[str, Any] = {
    "the link": views.result_view(_COMPLETED, _ARCHIVE, _LINK),
    "of a job made by one `file_id`": views.snake(views.result_view(_COMPLETED, _ARCHIVE, _LINK)),
}
EXPORTED: dict[str, Any] = {"the link": RESULT["the link"]}
MANAGED: dict[str, Any] = {
    "processing": views.managed_view(_PROCESSING.evolve(files=_FILES)),
    "ready": views.managed_view(_COMPLETED),
}
MANAGED_RETRY: dict[str, Any] = {"queued again": views.managed_retry_view(_QUEUED)}
MANAGED_LINK: dict[str, Any] = {
    "the link": views.managed_link_view(
        _COMPLETED, _ARCHIVE, _LINK, bucket="archives", now=_BEGAN + 5
    )
}
ENDED: dict[str, Any] = {
    "completed": views.start_view(_ONE_COMPLETED, _TRACE),
    "failed": views.start_view(_FAILED.evolve(form=Form.FILE, file_id=70000), _TRACE),
}
CHECKED: dict[str, Any] = {
    "of one `file_id` alone": views.availability_view(
        Prospect(
            entry=FileEntry(source=Source(url="", file_id=70000, key="70000.zip"), index=0),
            name="70000.zip",
            reachable=True,
            size=4096,
        ),
        _TRACE,
    ),
    "of a list": views.preflight_view(
        Outlined(
            files=tuple(
                Prospect(entry=entry, reachable=True, size=entry.size, name=entry.name or "")
                for entry in _FILES
            ),
            total_size=8192,
            estimated_time=12,
        ),
        _TRACE,
    ),
}
DELIVERIES: dict[str, Any] = {
    "delivered at the second try": views.deliveries_view(
        _COMPLETED.evolve(callback_url="https://app.example/webhooks/download-complete"),
        [
            Message(
                id="msg_2b1c5d",
                type="download.completed",
                status=DeliveryStatus.DELIVERED,
                created_at=_BEGAN + 5,
                attempts=[
                    Attempt(at=_BEGAN + 5, duration=0.2, status=503, error="It answered 503."),
                    Attempt(at=_BEGAN + 10.4, duration=0.1, status=204),
                ],
            )
        ],
    )
}
EVENT: dict[str, Any] = {
    "id": "1795313635000-0",
    "event": EventType.PROGRESS.value,
    "data": views.dumps(progress_event(_PROCESSING).data),
}
