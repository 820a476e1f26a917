"""What is answered, as marshmallow schemas: of the views in ``web/views.py``, field by field.

Tests hold every real answer against them, so they are as true as the views are.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Any

from marshmallow import Schema, fields

from downloadd.model import FileStatus, JobStatus, Stage
from downloadd.ports import DeliveryStatus
from downloadd.web.views import snake_name

_SHA256: Mapping[str, Any] = {"pattern": "^[0-9a-f]{64}$"}
_MOMENT: Mapping[str, Any] = {"format": "date-time", "pattern": "Z$"}
_JOB_ID: Mapping[str, Any] = {"format": "uuid"}
_ETA = "Seconds to the job's end; null where that is not known."
_LINK = "The signed address of the archive; it works until `expiresAt`."
_MANAGED = ("queued", "processing", "ready", "failed", "cancelled", "expired")


def _text(description: str, *, optional: bool = False, null: bool = False, **rules: Any) -> Any:
    return _field(fields.String, description, optional, null, rules)


def _number(description: str, *, optional: bool = False, null: bool = False, **rules: Any) -> Any:
    return _field(fields.Integer, description, optional, null, {"minimum": 0, **rules})


def _flag(description: str, *, optional: bool = False, null: bool = False) -> Any:
    return _field(fields.Boolean, description, optional, null, {})


def _time(description: str, *, optional: bool = False) -> Any:
    return _field(fields.String, f"{description} ISO 8601, UTC.", optional, False, _MOMENT)


def _one_of(kinds: type[StrEnum] | tuple[str, ...], description: str, **rules: Any) -> Any:
    names: list[str | None] = [str(kind) for kind in kinds]
    # JSON Schema has null among the values, too, where the type allows it.
    return _text(description, enum=names + [None] * rules.get("null", False), **rules)


def _field(
    kind: type[fields.Field[Any]],
    description: str,
    optional: bool,
    null: bool,
    rules: Mapping[str, Any],
) -> fields.Field[Any]:
    metadata = {"description": description, **rules}
    return kind(required=not optional, allow_none=null, metadata=metadata)


def _list(of: type[Schema], description: str, *, optional: bool = False) -> Any:
    return fields.List(
        fields.Nested(of), required=not optional, metadata={"description": description}
    )


def _schema(title: str, /, **kinds: fields.Field[Any]) -> type[Schema]:
    return Schema.from_dict(kinds, name=title)


@cache
def in_snake(schema: type[Schema]) -> type[Schema]:
    """The same with all names in snake_case, as ``views.snake`` writes them."""
    return Schema.from_dict(
        {snake_name(name): _snake_field(kind) for name, kind in declared(schema).items()},
        name=f"{schema.__name__}Snake",
    )


def declared(schema: type[Schema]) -> Mapping[str, fields.Field[Any]]:
    """The fields of a schema in their order."""
    found: Mapping[str, fields.Field[Any]] = schema._declared_fields  # noqa: SLF001
    return found


def _snake_field(kind: fields.Field[Any]) -> fields.Field[Any]:
    if isinstance(kind, fields.List) and isinstance(kind.inner, fields.Nested):
        inner = fields.Nested(in_snake(type(kind.inner.schema)))
        return fields.List(inner, required=kind.required, metadata=kind.metadata)
    if isinstance(kind, fields.Nested):
        return fields.Nested(in_snake(type(kind.schema)), required=kind.required)
    return kind


JobFile = _schema(
    "JobFile",
    fileId=_text("The id given, else the file's place in the list, from 1."),
    originalUrl=_text("Its URL without user, password and query values."),
    processed=_flag("Whether it is in the archive, or ready for it."),
    status=_one_of(FileStatus, "How far it is."),
    attempts=_number("How often it was asked for."),
    name=_text("Its path in the archive.", optional=True),
    size=_number("Bytes.", optional=True),
    sha256=_text("Of its bytes, in hex.", optional=True, **_SHA256),
    bytesFetched=_number("Bytes that are there, while it is fetched.", optional=True),
    error=_text("What went wrong, and what to do.", optional=True),
    errorCode=_text("The same for programs.", optional=True),
)

Job = _schema(
    "Job",
    jobId=_text("A UUID (version 4).", **_JOB_ID),
    status=_one_of(JobStatus, "What has become of the job."),
    stage=_one_of(Stage, "What is done just now, while processing.", optional=True),
    progress=_number("Percent; never goes back, and is 100 only when completed.", maximum=100),
    totalFiles=_number("Files asked for."),
    totalFileIds=_number("The same number."),
    filesCompleted=_number("Files fetched and verified."),
    filesFailed=_number("Files that cannot be had."),
    currentFile=_text("`fileId` of the file last worked on.", optional=True),
    bytesFetched=_number("Bytes fetched so far."),
    bytesTotal=_number("Bytes of all files; null until every size is known.", null=True),
    queuePosition=_number("1 is next; only while queued.", optional=True, minimum=1),
    estimatedTime=_number("Seconds for the whole job, said when it was made.", optional=True),
    estimatedTimeRemaining=_number(f"{_ETA} Until the job has ended.", optional=True, null=True),
    estimatedCompletion=_time("When the job is expected to end.", optional=True),
    createdAt=_time("When it was asked for."),
    startedAt=_time("When work on it began.", optional=True),
    updatedAt=_time("When it last changed."),
    completedAt=_time("When it ended, whichever way.", optional=True),
    processingTimeMs=_number("Milliseconds from its start to its end.", optional=True),
    attempts=_number("How often a worker has begun it."),
    files=_list(JobFile, "Of an ended job, or where `?files=true` asks for it.", optional=True),
    downloadUrl=_text(_LINK, optional=True),
    expiresAt=_time("When `downloadUrl` ceases to work.", optional=True),
    totalSize=_number("Bytes of the archive.", optional=True),
    fileName=_text("What the archive is called.", optional=True),
    sha256=_text("Of the archive, in hex.", optional=True, **_SHA256),
    partial=_flag("Files were left out (`onError: skip`); of a completed job.", optional=True),
    error=_text("When failed: what went wrong, and what to do.", optional=True),
    errorCode=_text("The same for programs; it is never renamed.", optional=True),
    traceId=_text("The trace of the request that made it, 32 hex digits.", optional=True),
    fileId=_number("Of a job asked for by one `file_id`: that.", optional=True),
    subscribeUrl=_text("Path of its events."),
    statusUrl=_text("Path of this answer."),
    resultUrl=_text("Path of its link."),
)

Result = _schema(
    "Result",
    jobId=_text("The job.", **_JOB_ID),
    downloadUrl=_text(_LINK),
    expiresAt=_time("When `downloadUrl` ceases to work."),
    fileSize=_number("Bytes of the archive."),
    fileName=_text("What the archive is called."),
    sha256=_text("Of the archive, in hex.", **_SHA256),
)

ManagedProgress = _schema(
    "ManagedProgress",
    current=_number("Files done with, well or not."),
    total=_number("Files asked for."),
    percentage=_number("Percent.", maximum=100),
    estimatedTimeRemaining=_number("Milliseconds to the end, or null.", null=True),
)

ManagedFile = _schema(
    "ManagedFile",
    file_id=_number("The id given, else the file's place in the list, from 1."),
    status=_one_of(("pending", "completed", "failed"), "How far it is."),
    error=_text("What went wrong.", optional=True),
)

ManagedJob = _schema(
    "ManagedJob",
    jobId=_text("The job.", **_JOB_ID),
    status=_one_of(_MANAGED, "What has become of it; `ready` is completed."),
    progress=fields.Nested(ManagedProgress, required=True),
    filesProcessed=_list(ManagedFile, "Every file."),
    createdAt=_time("When it was asked for."),
    updatedAt=_time("When it last changed."),
    error=_text("When failed: what went wrong, and what to do.", optional=True),
    errorCode=_text("The same for programs.", optional=True),
)

ManagedRetry = _schema(
    "ManagedRetry",
    jobId=_text("The job.", **_JOB_ID),
    status=_one_of(("queued",), "It waits for its turn."),
    message=_text("What has happened."),
    progress=fields.Nested(ManagedProgress, required=True),
)

ManagedLink = _schema(
    "ManagedLink",
    jobId=_text("The job.", **_JOB_ID),
    downloadUrl=_text("The signed address of the archive."),
    expiresIn=_number("Seconds that it still works."),
    fileSize=_number("Bytes of the archive."),
    bucket=_text("Where it lies."),
)

JobList = _schema(
    "JobList",
    jobs=fields.List(
        fields.Raw(
            metadata={
                "oneOf": [{"$ref": f"#/components/schemas/{it}"} for it in ("Job", "JobSnake")]
            }
        ),
        required=True,
        metadata={"description": "Newest first, each as it was asked for."},
    ),
    total=_number("Jobs on all pages."),
    page=_number("This page, from 1.", minimum=1),
    limit=_number("Jobs on a page.", minimum=1),
)

Ended = _schema(
    "Ended",
    file_id=_number("The file asked for."),
    status=_one_of(("completed", "failed"), "How it ended."),
    downloadUrl=_text("The signed address of the archive, or null.", null=True),
    size=_number("Bytes of the archive, or null.", null=True),
    processingTimeMs=_number("Milliseconds of work."),
    message=_text("How it went, in a sentence."),
    traceId=_text("The trace of the request that made the job."),
)

Availability = _schema(
    "Availability",
    file_id=_number("The file asked for."),
    available=_flag("Whether it is there."),
    s3Key=_text("Its key in the storage; null where it is elsewhere, or nowhere.", null=True),
    size=_number("Bytes; null where that is not known.", null=True),
    traceId=_text("The trace of this request."),
)

Prospect = _schema(
    "Prospect",
    fileId=_text("The id given, else the file's place in the list, from 1."),
    url=_text("Its URL without user, password and query values."),
    reachable=_flag("Whether it is there; null where there was no time to ask.", null=True),
    size=_number("Bytes; null where its server does not say.", null=True),
    blocked=_flag("Whether its address may not be fetched from."),
    name=_text("What it would be called in the archive."),
    contentType=_text("What its server says it is.", optional=True),
    error=_text("Why it cannot be had.", optional=True),
    errorCode=_text("The same for programs.", optional=True),
)

Preflight = _schema(
    "Preflight",
    files=_list(Prospect, "In the order asked for."),
    totalFiles=_number("Files asked for."),
    totalSize=_number("Bytes of all; null where one is not known.", null=True),
    estimatedTime=_number("Seconds that a job of them would take, or null.", null=True),
    traceId=_text("The trace of this request."),
)

Attempt = _schema(
    "Attempt",
    at=_time("When it began."),
    durationMs=_number("Milliseconds."),
    status=_number("The HTTP status, where there was an answer.", optional=True),
    error=_text("What went wrong.", optional=True),
)

Delivery = _schema(
    "Delivery",
    id=_text("`webhook-id` of the message."),
    type=_one_of(("download.completed", "download.failed", "download.cancelled"), "Its type."),
    status=_one_of(DeliveryStatus, "What has become of it."),
    createdAt=_time("When the job ended."),
    nextAttemptAt=_time("When it is sent next, where that is to be.", optional=True),
    attempts=_list(Attempt, "The oldest first."),
)

Deliveries = _schema(
    "Deliveries",
    jobId=_text("The job.", **_JOB_ID),
    callbackUrl=_text("Who is told, without query values; null for nobody.", null=True),
    deliveries=_list(Delivery, "One for each end of the job."),
)

Event = _schema(
    "Event",
    jobId=_text("The job.", **_JOB_ID),
    status=_one_of(JobStatus, "As in the job."),
    progress=_number("Percent.", maximum=100),
    filesCompleted=_number("Files fetched and verified."),
    filesFailed=_number("Files that cannot be had."),
    totalFiles=_number("Files asked for."),
    currentFile=_text("`fileId` of the file last worked on.", null=True),
    stage=_one_of(Stage, "What is done just now.", null=True),
    bytesFetched=_number("Bytes fetched so far."),
    bytesTotal=_number("Bytes of all files, or null.", null=True),
    estimatedTimeRemaining=_number("Seconds to the end, or null.", null=True),
    downloadUrl=_text("When completed: the signed address of the archive.", optional=True),
    expiresAt=_time("When that ceases to work.", optional=True),
    totalSize=_number("Bytes of the archive.", optional=True),
    fileName=_text("What the archive is called.", optional=True),
    sha256=_text("Of the archive, in hex.", optional=True, **_SHA256),
    partial=_flag("Files were left out.", optional=True),
    error=_text("When failed: what went wrong, and what to do.", optional=True),
    errorCode=_text("The same for programs.", optional=True),
)

Message = _schema(
    "Message",
    type=_one_of(("status", "progress", "complete", "error"), "The kind of event."),
    data=fields.Dict(required=True, metadata={"description": "The job, or an `Event`."}),
    timestamp=_time("When it was written."),
    id=_text("Its place in the stream, for `lastEventId`.", optional=True),
)

Health = _schema(
    "Health",
    status=_one_of(("healthy", "unhealthy"), "Whether every check is well."),
    checks=fields.Dict(
        keys=fields.String(),
        values=fields.String(metadata={"enum": ["ok", "error"]}),
        required=True,
        metadata={"description": "`storage` and `redis`."},
    ),
)
Liveness = _schema("Liveness", status=_one_of(("alive",), "It answers."))
Readiness = _schema(
    "Readiness", status=_one_of(("ready", "draining"), "`draining` while it is being stopped.")
)
Home = _schema(
    "Home",
    name=_text("`downloadd`."),
    version=_text("Its version."),
    message=_text("What it is for."),
    docs=_text("Path of the documentation."),
)
Error = _schema(
    "Error",
    error=_text("The kind of error, for people."),
    code=_text("The same for programs; it is never renamed."),
    message=_text("What is wrong, and what to do."),
    details=fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "What each field of the request breaks."},
    ),
    requestId=_text("`X-Request-ID` of the answer."),
)
