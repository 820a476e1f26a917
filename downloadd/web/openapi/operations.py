"""Each call of the HTTP API: what it takes, what it answers, and how it fails (SPEC §3, §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from marshmallow import Schema

from downloadd import errors
from downloadd.web.openapi import answers, examples
from downloadd.web.openapi.parts import (
    CASE,
    FILES,
    IDEMPOTENCY_KEY,
    IF_NONE_MATCH,
    JOB_ID,
    KNOWN,
    LAST_EVENT_ID,
    LAST_EVENT_ID_QUERY,
    LIST,
    TOKEN,
    UPGRADED,
    Operation,
    answer,
    in_json,
    parameter,
    text,
)
from downloadd.web.openapi.refusals import (
    ARCHIVE,
    BODY,
    CALLER,
    JOB,
    MAKING,
    STATE,
    STREAM,
    Refusal,
)

#: The two schemas of bodies, which the document's maker adds (their limits are settings).
NEW_JOB, ONE_FILE = "NewJob", "OneFile"


def _making(form: str) -> dict[str, Any]:
    return {
        "tag": "jobs",
        "parameters": (IDEMPOTENCY_KEY, CASE),
        "body": NEW_JOB,
        "body_examples": examples.NEW_JOBS,
        "refusals": MAKING,
        "answers": {
            200: in_json(
                f"The job{form}: a new one, or the one that the same request made before.",
                answers.Job,
                examples.NEW_JOB,
                snake=True,
                headers=("Location", "Idempotent-Replayed"),
            ),
        },
    }


def _status(
    schema: type[Schema], shown: Mapping[str, Any], summary: str, *parameters: Mapping[str, Any]
) -> Operation:
    return Operation(
        summary=summary,
        tag="jobs",
        parameters=(JOB_ID, CASE, *parameters, IF_NONE_MATCH),
        answers={
            200: in_json("The job.", schema, shown, snake=True, headers=("ETag",)),
            304: KNOWN,
        },
        refusals=JOB,
    )


def _events(summary: str, types: Sequence[str], *, upgrades: bool = False) -> Operation:
    stream = answer(
        "Events until the job ends or 600 seconds are over; the schema is that of one event.",
        {"text/event-stream": {"schema": _event(types), "example": examples.EVENT}},
    )
    socket = "With `Upgrade: websocket` the same as messages: `Message`." if upgrades else ""
    found = {200: stream, 204: answer("The client has seen the last event: do not reconnect.")}
    return Operation(
        summary=summary,
        description=socket,
        tag="events",
        parameters=(JOB_ID, CASE, LAST_EVENT_ID, LAST_EVENT_ID_QUERY, TOKEN),
        answers={**({101: UPGRADED} if upgrades else {}), **found},
        refusals=(
            *JOB,
            *STREAM,
            *((HTTPStatus.FORBIDDEN, errors.RequestError) if upgrades else ()),
        ),
    )


def _event(types: Sequence[str]) -> dict[str, Any]:
    """One event by the fields that it is sent as (WHATWG HTML §9.2.6)."""
    told = [{"$ref": f"#/components/schemas/{it}"} for it in _TOLD]
    return {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "enum": list(types)},
            "id": {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
            "data": {
                "type": "string",
                "description": "The whole job in `status` events, else an `Event`.",
                "contentMediaType": "application/json",
                "contentSchema": {"anyOf": told},
            },
        },
    }


def _link(
    schema: type[Schema], shown: Mapping[str, Any], summary: str = "Where the archive is"
) -> Operation:
    return Operation(
        summary=summary,
        tag="archives",
        parameters=(JOB_ID, CASE),
        answers={200: in_json("A link that works for its whole time.", schema, shown, snake=True)},
        refusals=ARCHIVE,
    )


def _retry(schema: type[Schema], shown: Mapping[str, Any]) -> Operation:
    return Operation(
        summary="Queue a failed or cancelled job again",
        description="A failed job goes on from what is verified already, for an hour. "
        "For limits and quotas it is a new job.",
        tag="jobs",
        parameters=(JOB_ID, CASE),
        answers={200: in_json("It is queued.", schema, shown, snake=True, headers=("Location",))},
        refusals=(
            *JOB,
            errors.QuotaExceeded,
            errors.JobConflict,
            errors.QueueFull,
            errors.StorageUnavailable,
        ),
    )


_CANCEL = Operation(
    summary="Cancel a job",
    tag="jobs",
    parameters=(JOB_ID, CASE),
    answers={200: in_json("It is cancelled.", answers.Job, examples.CANCELLED, snake=True)},
    refusals=(*JOB, errors.JobConflict),
)


def _delivered(status: int, summary: str, *refusals: Refusal) -> Operation:
    return Operation(
        summary=summary,
        tag="webhooks",
        parameters=(JOB_ID,),
        answers={
            status: in_json("Each message, each try.", answers.Deliveries, examples.DELIVERIES)
        },
        refusals=(*JOB, *refusals),
    )


def _document(
    summary: str,
    content: Mapping[str, Any],
    parameters: Sequence[Mapping[str, Any]] = (),
    refusals: tuple[Refusal, ...] = (),
) -> Operation:
    return Operation(
        summary=summary,
        tag="documents",
        parameters=(*parameters, IF_NONE_MATCH),
        answers={200: answer("It.", content, headers=("ETag",)), 304: KNOWN},
        refusals=refusals,
    )


#: What ``data`` of an event is: the schemas' names.
_TOLD = ("Job", "JobSnake", "Event", "EventSnake")
_FOUR = ("status", "progress", "error", "complete")
_ENDS = ("failed", "cancelled")
_EXPORT = ("status", "progress", "completed", *_ENDS)

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/v1/download/initiate"): Operation(
        summary="Make a job",
        description="It is answered at once; the work is done in the background.",
        **_making(""),
    ),
    ("POST", "/v1/export"): Operation(
        summary="Make a job whose events end with `completed`",
        description="A page that may send JSON here may call it `text/plain`, as browsers do.",
        **_making(", polled at `/v1/export/{job_id}`"),
    ),
    ("POST", "/v1/download/start"): Operation(
        summary="Make a job of one file and wait for its end",
        tag="jobs",
        parameters=(IDEMPOTENCY_KEY, CASE),
        body=ONE_FILE,
        body_examples=examples.ONE_FILE,
        answers={
            200: in_json("How it ended.", answers.Ended, examples.ENDED, snake=True),
            202: in_json(
                "It takes longer than clients wait: go on with its status.",
                answers.Job,
                examples.NEW_JOB,
                snake=True,
                headers=("Location", "Retry-After", "Idempotent-Replayed"),
            ),
        },
        refusals=(*MAKING, errors.JobNotFound),
    ),
    ("POST", "/v1/download/check"): Operation(
        summary="See what a job would find",
        description="Each file is asked for, none is fetched, and no job is made.",
        tag="jobs",
        body=NEW_JOB,
        body_examples={**examples.ONE_FILE, **examples.NEW_JOBS},
        answers={
            200: {
                "description": "What there is; of one `file_id` alone, whether it is there.",
                "content": {
                    "application/json": {
                        "schema": {"oneOf": [answers.Availability, answers.Preflight]},
                        "examples": {
                            name: {"value": value} for name, value in examples.CHECKED.items()
                        },
                    },
                },
            },
        },
        refusals=(*BODY, *STATE, errors.StorageUnavailable),
    ),
    ("GET", "/v1/download/jobs"): Operation(
        summary="List the caller's jobs, newest first",
        tag="jobs",
        parameters=LIST,
        answers={200: in_json("A page of them.", answers.JobList, examples.JOB_LIST)},
        refusals=(errors.ValidationError, *STATE),
    ),
    ("GET", "/v1/download/status/{job_id}"): _status(
        answers.Job, examples.JOB, "Poll a job", FILES
    ),
    ("GET", "/v1/export/{job_id}"): _status(
        answers.Job, examples.JOB, "Poll a job made through `/v1/export`", FILES
    ),
    ("GET", "/v1/download/job/{job_id}"): _status(
        answers.ManagedJob, examples.MANAGED, "Poll a job as download managers do"
    ),
    ("GET", "/v1/download/subscribe/{job_id}"): _events(
        "Watch a job; the last event of one made through `/v1/export` is `completed`",
        ("complete", *_EXPORT),
        upgrades=True,
    ),
    ("GET", "/v1/download/stream/{job_id}"): _events("Watch a job in four types of events", _FOUR),
    ("GET", "/v1/export/{job_id}/progress"): _events(
        "Watch a job made through `/v1/export`", _EXPORT
    ),
    ("GET", "/ws"): Operation(
        summary="Watch several jobs over one WebSocket",
        description=(
            'Send `{"type": "subscribe", "job_id": …}` for each; the job comes whole, in '
            'snake_case, at every change. `{"type": "ping"}` is answered. Who connects without a '
            "credential sends the token of the job's `subscribeUrl` as `token`."
        ),
        tag="events",
        answers={101: UPGRADED},
        refusals=(*STREAM, *CALLER, errors.RequestError, HTTPStatus.FORBIDDEN),
    ),
    ("GET", "/v1/download/result/{job_id}"): _link(answers.Result, examples.RESULT),
    ("GET", "/v1/export/{job_id}/download"): _link(answers.Result, examples.EXPORTED),
    ("GET", "/v1/download/job/{job_id}/download-url"): _link(
        answers.ManagedLink, examples.MANAGED_LINK
    ),
    ("GET", "/v1/download/{job_id}"): Operation(
        summary="Get the archive",
        description="A stable address, which can be mailed around while the archive exists.",
        tag="archives",
        parameters=(JOB_ID,),
        answers={302: answer("To a freshly signed link.", headers=("Location",))},
        refusals=ARCHIVE,
    ),
    ("GET", "/v1/files/{key}"): Operation(
        summary="The archive itself, where archives lie in a folder of the server",
        description="Only through links that the server has signed. Takes ranges.",
        tag="archives",
        parameters=(
            parameter("key", "path", "The archive.", {"type": "string"}, required=True),
            *(
                parameter(name, "query", "Of the signed link.", {"type": "string"})
                for name in ("expires", "name", "signature")
            ),
            parameter("Range", "header", "One range of bytes.", {"type": "string"}),
            IF_NONE_MATCH,
        ),
        answers={
            200: answer("The archive.", {"application/zip": {}}, headers=("ETag",)),
            206: answer("A part of it.", {"application/zip": {}}, headers=("ETag",)),
            304: KNOWN,
        },
        refusals=(
            errors.LinkInvalid,
            errors.ObjectMissing,
            HTTPStatus.NOT_FOUND,
            errors.StorageUnavailable,
            HTTPStatus.PRECONDITION_FAILED,
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        ),
    ),
    ("DELETE", "/v1/download/{job_id}"): _CANCEL,
    ("DELETE", "/v1/download/cancel/{job_id}"): _CANCEL,
    ("POST", "/v1/download/{job_id}/retry"): _retry(answers.Job, examples.RETRIED),
    ("POST", "/v1/download/job/{job_id}/retry"): _retry(
        answers.ManagedRetry, examples.MANAGED_RETRY
    ),
    ("GET", "/v1/download/{job_id}/deliveries"): _delivered(200, "How its callback was told"),
    ("POST", "/v1/download/{job_id}/deliveries/replay"): _delivered(
        202, "Tell its callback again", errors.JobConflict
    ),
    ("GET", "/health"): Operation(
        summary="Is everything there that jobs need?",
        tag="operations",
        answers={
            200: in_json("Yes.", answers.Health),
            503: in_json("No.", answers.Health, headers=("Retry-After",)),
        },
    ),
    ("GET", "/health/live"): Operation(
        summary="Does the process live?",
        tag="operations",
        answers={200: in_json("Yes.", answers.Liveness)},
    ),
    ("GET", "/health/ready"): Operation(
        summary="Does the process take requests?",
        tag="operations",
        answers={
            200: in_json("Yes.", answers.Readiness),
            503: in_json("It is being stopped.", answers.Readiness, headers=("Retry-After",)),
        },
    ),
    ("GET", "/metrics"): Operation(
        summary="Metrics for Prometheus",
        tag="operations",
        answers={200: answer("Text in the format of Prometheus.", text("text/plain"))},
    ),
    ("GET", "/"): Operation(
        summary="Who answers here",
        tag="documents",
        answers={200: in_json("Name and version.", answers.Home)},
    ),
    ("GET", "/openapi.json"): _document(
        "This document", {"application/json": {"schema": {"type": "object"}}}
    ),
    ("GET", "/docs"): _document("This document as a page", text("text/html")),
    ("GET", "/docs/{asset}"): _document(
        "What that page needs",
        {**text("text/javascript"), **text("text/css")},
        (parameter("asset", "path", "The file.", {"type": "string"}, required=True),),
        (HTTPStatus.NOT_FOUND,),
    ),
}
