"""Jobs, files and events as Redis fields, and back.

A job's small fields are fields of one hash, so that a status read takes them
and leaves the list of 1,000 sources where it is. A field that is absent or
empty means the record's default. Nested values are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from downloadd.model import (
    Archive,
    Event,
    EventType,
    FileEntry,
    FileStatus,
    Form,
    Job,
    JobStatus,
    Link,
    OnError,
    Options,
    Priority,
    Source,
    Stage,
)

#: Fields of a job's hash that make up its status, in the order in which
#: scripts return them; the queue position follows.
FIELDS = (
    "status",
    "stage",
    "progress",
    "files_completed",
    "files_failed",
    "current_file",
    "bytes_fetched",
    "bytes_total",
    "updated_at",
    "partial",
    "user",
    "options",
    "total_files",
    "created_at",
    "started_at",
    "completed_at",
    "attempts",
    "archive",
    "link",
    "error",
    "error_code",
    "traceparent",
    "cursor",
    "estimated_time",
    "work_left",
    "callback_url",
    "form",
    "file_id",
    "run_traceparent",
)

#: Rank in the queue: lower is earlier.
PRIORITY_RANKS: Mapping[Priority, int] = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}

_DEFAULT_OPTIONS = Options()

# ASCII, so that any string survives, lone surrogates included.
dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def text(value: str | float | None) -> str | float:
    """A field's value; None is the empty string."""
    return "" if value is None else value


# --- jobs --------------------------------------------------------------------


def encode_new(job: Job) -> list[str | float]:
    """All fields of a queued job, name and value in turn; defaults are left out."""
    fields: dict[str, str | float | None] = {
        "status": job.status.value,
        "updated_at": job.updated_at,
        "user": job.user,
        "options": _encode_options(job.options),
        "total_files": job.total_files,
        "created_at": job.created_at,
        "bytes_total": job.bytes_total,
        "traceparent": job.traceparent,
        "work_left": job.work_left,
        "callback_url": job.callback_url,
        "form": None if job.form is Form.CANONICAL else job.form.value,
        "file_id": job.file_id,
        "spec": dumps([_encode_source(entry.source) for entry in job.files]),
    }
    return [part for name, value in fields.items() if value is not None for part in (name, value)]


def encode_progress(job: Job) -> list[str | float]:
    """The fields that change while a job runs, name and value in turn."""
    return [
        "stage",
        job.stage.value if job.stage else "",
        "progress",
        job.progress,
        "files_completed",
        job.files_completed,
        "files_failed",
        job.files_failed,
        "current_file",
        text(job.current_file),
        "bytes_fetched",
        job.bytes_fetched,
        "bytes_total",
        text(job.bytes_total),
        "updated_at",
        job.updated_at,
        "partial",
        "1" if job.partial else "",
        "work_left",
        text(job.work_left),
        *(("run_traceparent", job.run_traceparent) if job.run_traceparent else ()),
    ]


def encode_end(job: Job) -> list[str | float]:
    """The fields that are written at a job's end, name and value in turn."""
    return [
        *encode_progress(job),
        "completed_at",
        text(job.completed_at),
        "archive",
        _encode_archive(job.archive),
        "link",
        dumps([job.link.url, job.link.expires_at]) if job.link else "",
        "error",
        text(job.error),
        "error_code",
        text(job.error_code),
    ]


def decode_job(
    job_id: str,
    values: Sequence[str | int | None],
    files: tuple[FileEntry, ...] = (),
) -> Job:
    """The job of a script's answer: the values of ``FIELDS``, then the queue position."""
    at = dict(zip(FIELDS, values, strict=False))
    place = values[len(FIELDS)] if len(values) > len(FIELDS) else None
    return Job(
        id=job_id,
        user=str(at["user"]),
        form=Form(str(at["form"])) if at["form"] else Form.CANONICAL,
        file_id=_whole(at["file_id"]),
        options=_decode_options(at["options"]),
        files=files,
        total_files=_whole(at["total_files"]) or 0,
        status=JobStatus(str(at["status"])),
        stage=Stage(str(at["stage"])) if at["stage"] else None,
        progress=_whole(at["progress"]) or 0,
        files_completed=_whole(at["files_completed"]) or 0,
        files_failed=_whole(at["files_failed"]) or 0,
        current_file=_string(at["current_file"]),
        bytes_fetched=_whole(at["bytes_fetched"]) or 0,
        bytes_total=_whole(at["bytes_total"]),
        created_at=_number(at["created_at"]) or 0.0,
        updated_at=_number(at["updated_at"]) or 0.0,
        started_at=_number(at["started_at"]),
        completed_at=_number(at["completed_at"]),
        attempts=_whole(at["attempts"]) or 0,
        archive=_decode_archive(at["archive"]),
        link=_decode_link(at["link"]),
        partial=bool(at["partial"]),
        error=_string(at["error"]),
        error_code=_string(at["error_code"]),
        traceparent=_string(at["traceparent"]),
        run_traceparent=_string(at["run_traceparent"]),
        queue_position=_whole(place),
        cursor=_string(at["cursor"]),
        estimated_time=_whole(at["estimated_time"]),
        work_left=_number(at["work_left"]),
        callback_url=_string(at["callback_url"]),
    )


def _whole(value: str | int | None) -> int | None:
    return int(value) if value else None


def _number(value: str | int | None) -> float | None:
    return float(value) if value else None


def _string(value: str | int | None) -> str | None:
    return str(value) if value else None


def _encode_archive(archive: Archive | None) -> str:
    if archive is None:
        return ""
    return dumps([archive.key, archive.size, archive.sha256, archive.file_name])


def _decode_archive(value: str | int | None) -> Archive | None:
    if not value:
        return None
    key, size, sha256, file_name = json.loads(str(value))
    return Archive(key=key, size=size, sha256=sha256, file_name=file_name)


def _decode_link(value: str | int | None) -> Link | None:
    if not value:
        return None
    url, expires_at = json.loads(str(value))
    return Link(url=url, expires_at=expires_at)


def _encode_options(options: Options) -> str | None:
    if options == _DEFAULT_OPTIONS:
        return None
    return dumps(
        {
            "compress": options.compress,
            "on_error": options.on_error.value,
            "manifest": options.manifest,
            "file_name": options.file_name,
            "metadata": dict(options.metadata),
            "priority": options.priority.value,
        },
    )


def _decode_options(value: str | int | None) -> Options:
    if not value:
        return _DEFAULT_OPTIONS
    fields = json.loads(str(value))
    fields["on_error"] = OnError(fields["on_error"])
    fields["priority"] = Priority(fields["priority"])
    return Options(**fields)


# --- files -------------------------------------------------------------------


def _encode_source(source: Source) -> dict[str, Any]:
    """Without the headers, which are kept apart because they may be secrets."""
    fields = {
        "url": source.url,
        "key": source.key,
        "file_id": source.file_id,
        "name": source.name,
        "sha256": source.sha256,
        "md5": source.md5,
        "size": source.size,
    }
    return {name: value for name, value in fields.items() if value is not None}


def encode_headers(files: Iterable[FileEntry]) -> str:
    """Request headers by index of the file; empty where no source has any."""
    headers = {e.index: dict(e.source.headers) for e in files if e.source.headers}
    return dumps(headers) if headers else ""


def encode_flight(files: Iterable[FileEntry]) -> str:
    """The state of the files that are being fetched."""
    return dumps(
        [
            [e.index, e.bytes_fetched, e.size, e.attempts, e.name]
            for e in files
            if e.status is FileStatus.FETCHING
        ],
    )


def encode_files(files: Iterable[FileEntry]) -> list[str | int]:
    """How files ended: index and JSON in turn."""
    return [part for entry in files for part in (entry.index, _encode_file(entry))]


def _encode_file(entry: FileEntry) -> str:
    fields = {
        "status": entry.status.value,
        "name": entry.name,
        "size": entry.size,
        "sha256": entry.sha256,
        "attempts": entry.attempts,
        "bytes_fetched": entry.bytes_fetched,
        "fetched_at": entry.fetched_at,
        "error": entry.error,
        "error_code": entry.error_code,
    }
    return dumps({name: value for name, value in fields.items() if value is not None})


def decode_files(
    spec: str,
    ended: Sequence[str],
    *,
    flight: str | None = None,
    headers: str | None = None,
) -> tuple[FileEntry, ...]:
    """All files of a job: as asked for, with what is known of each since.

    ``ended`` is the job's files hash, flat: index, JSON, index, JSON, …
    """
    given: dict[str, dict[str, str]] = json.loads(headers) if headers else {}
    changes: dict[int, dict[str, Any]] = {}
    for index, received, size, attempts, name in json.loads(flight) if flight else ():
        changes[index] = {
            "status": FileStatus.FETCHING,
            "bytes_fetched": received,
            "size": size,
            "attempts": attempts,
            "name": name,
        }
    for index, value in zip(ended[::2], ended[1::2], strict=True):
        fields = json.loads(value)
        changes[int(index)] = fields | {"status": FileStatus(fields["status"])}
    return tuple(
        FileEntry(
            index=index,
            source=Source(**source, headers=given.get(str(index), {})),
            **changes.get(index, {}),
        )
        for index, source in enumerate(json.loads(spec))
    )


# --- events ------------------------------------------------------------------


def encode_event(event: Event) -> str:
    """An event's data as JSON; its type has a field of its own."""
    return dumps(dict(event.data))


def decode_event(event_id: str, kind: str, data: str) -> Event:
    """An event as the stream or a publication has it."""
    return Event(type=EventType(kind), data=json.loads(data), id=event_id)


def decode_message(message: str) -> Event:
    """An event as it is published: id, type and data, a space between."""
    event_id, kind, data = message.split(" ", 2)
    return decode_event(event_id, kind, data)


def decode_entry(entry: Sequence[Any]) -> Event:
    """An entry as XRANGE returns it: id and flat fields ``t``, ``d``."""
    event_id, fields = entry
    return decode_event(event_id, fields[1], fields[3])
