"""Every error that clients may be answered, as responses of OpenAPI."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from downloadd import errors
from downloadd.errors import DownloaddError
from downloadd.web.errors import CODES, status_of

#: An error of ours by its class, or one of aiohttp's by its status.
Refusal = type[DownloaddError] | HTTPStatus

#: What any address may answer.
ANYWHERE: tuple[Refusal, ...] = (
    DownloaddError,
    errors.AnswerTimeout,
    HTTPStatus.EXPECTATION_FAILED,
)
#: Of a call that asks who calls.
CALLER: tuple[Refusal, ...] = (errors.Unauthorized, errors.Forbidden, errors.TooManyRequests)
#: Of a stream of events.
STREAM: tuple[Refusal, ...] = (errors.TooManyStreams, errors.StreamsFull)
STATE: tuple[Refusal, ...] = (errors.StateUnavailable,)
#: Of a call that names a job in its path.
JOB: tuple[Refusal, ...] = (errors.ValidationError, errors.JobNotFound, *STATE)
#: Of a call with a body.
BODY: tuple[Refusal, ...] = (
    errors.RequestError,
    errors.ValidationError,
    errors.UnsupportedOption,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)
#: Of a call that makes a job.
MAKING: tuple[Refusal, ...] = (
    *BODY,
    *STATE,
    errors.IdempotencyConflict,
    errors.QuotaExceeded,
    errors.QueueFull,
    errors.ServerStopping,
    errors.StorageUnavailable,
)
#: Of a call for an archive.
ARCHIVE: tuple[Refusal, ...] = (*JOB, errors.JobConflict, errors.JobExpired)

#: A sentence of each, by its code.
_EXAMPLES: Mapping[str, str] = {
    "internal_error": "Something went wrong on the server. The request id finds it in the log.",
    "answer_timeout": "The answer took too long; try again in a few seconds.",
    "expectation_failed": "Client must not expect anything but 100-continue.",
    "state_unavailable": "The job store cannot be reached. Try again in a few seconds.",
    "storage_unavailable": "The storage cannot be reached. Try again in a few seconds.",
    "validation_error": "The request breaks a rule: file_ids.2: 70000 is listed twice.",
    "unsupported_option": "options.watermark: Watermarks are not built yet: leave it false.",
    "bad_request": "The body is not proper HTTP.",
    "request_timeout": "The body did not arrive in time.",
    "payload_too_large": "The body has more than 4,194,304 bytes.",
    "unsupported_media_type": "Send the body as Content-Type: application/json, in UTF-8.",
    "job_not_found": "There is no job 5b0ea2a1-7f3d-4c5e-9b7a-0d1c2e3f4a5b.",
    "job_state_conflict": "The job is processing; its archive is there when it is completed.",
    "job_expired": "The archive was removed after its time. Make the job again.",
    "idempotency_conflict": "This Idempotency-Key was used with another body.",
    "queue_full": "10,000 jobs wait already. Try again later.",
    "server_stopping": "This server is being stopped and takes no more jobs. Try again.",
    "link_invalid": "The link is not one of this server's, or its time is over.",
    "object_missing": "There is no such file, or it was removed after its time.",
    "unauthorized": "The token has expired.",
    "rate_limited": "More than 100 requests in a minute. Try again in 12 seconds.",
    "quota_exceeded": "More than 100 jobs in a day. Try again tomorrow.",
    "too_many_streams": "One client watches 20 jobs at once, at most.",
    "streams_full": "As many jobs are being watched as this server can. Poll the status.",
    "forbidden": "Pages of this origin may not connect here.",
    "not_found": "There is nothing at this address.",
    "precondition_failed": "The file is another one than the request is for.",
    "range_not_satisfiable": "The file has 8,507 bytes; the range lies outside of it.",
}
#: What tells of a limit: of streams and jobs, it is of requests all the same.
RATE_HEADERS = tuple(
    f"{prefix}-{what}"
    for prefix in ("X-RateLimit", "RateLimit")
    for what in ("Limit", "Remaining", "Reset")
)
_HEADERS: Mapping[HTTPStatus, Sequence[str]] = {
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After",),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After", *RATE_HEADERS),
}
_REQUEST_ID = "0e3dbd04-6b1c-4f1e-8d2a-3c4b5a697887"


def responses(refusals: Iterable[Refusal]) -> dict[HTTPStatus, dict[str, Any]]:
    """The answers to these errors, by status; each lists the codes that it may have."""
    codes: dict[HTTPStatus, list[str]] = defaultdict(list)
    for refusal in dict.fromkeys(refusals):
        status, code = _row(refusal)
        codes[status].append(code)
    return {status: _response(status, found) for status, found in sorted(codes.items())}


def _row(refusal: Refusal) -> tuple[HTTPStatus, str]:
    if isinstance(refusal, HTTPStatus):
        return refusal, CODES[refusal]
    return status_of(refusal) or HTTPStatus.INTERNAL_SERVER_ERROR, refusal.code


def _response(status: HTTPStatus, codes: list[str]) -> dict[str, Any]:
    schema = {
        "allOf": [
            {"$ref": "#/components/schemas/Error"},
            {"type": "object", "properties": {"code": {"enum": codes}}},
        ],
    }
    examples = {code: {"value": _example(status, code)} for code in codes}
    response: dict[str, Any] = {
        "description": f"{status.phrase}: {', '.join(f'`{code}`' for code in codes)}.",
        "content": {"application/json": {"schema": schema, "examples": examples}},
    }
    if names := _HEADERS.get(status):
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return response


def _example(status: HTTPStatus, code: str) -> dict[str, Any]:
    invalid = code in (errors.ValidationError.code, errors.UnsupportedOption.code)
    example: dict[str, Any] = {
        "error": "Validation Error" if invalid else status.phrase,
        "code": code,
        "message": _EXAMPLES[code],
    }
    if invalid:
        field, _, text = _EXAMPLES[code].removeprefix("The request breaks a rule: ").partition(": ")
        example["details"] = {field: [text]}
    return {**example, "requestId": _REQUEST_ID}
