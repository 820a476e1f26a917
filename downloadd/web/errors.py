"""The one table from error to HTTP status, and the form of every error answer (SPEC §3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from aiohttp import web

from downloadd import errors
from downloadd.web.requests import REQUEST_ID

#: Seconds until a client should ask again, where nobody knows better.
RETRY_AFTER_SECONDS = 5

#: The most specific row in an exception's ancestry counts; what has none is a
#: fault of ours, logged whole and answered with a generic 500.
STATUSES: Mapping[type[errors.DownloaddError], HTTPStatus] = {
    errors.RequestError: HTTPStatus.BAD_REQUEST,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    errors.JobNotFound: HTTPStatus.NOT_FOUND,
    errors.JobConflict: HTTPStatus.CONFLICT,
    errors.JobExpired: HTTPStatus.GONE,
    errors.IdempotencyConflict: HTTPStatus.UNPROCESSABLE_ENTITY,
    # Forged and outdated links get one answer, as S3 gives it.
    errors.LinkInvalid: HTTPStatus.FORBIDDEN,
    errors.ObjectMissing: HTTPStatus.NOT_FOUND,
    errors.QueueFull: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StreamsFull: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.AnswerTimeout: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ServerStopping: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StateUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StorageUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

#: With these clients are told when to ask again.
_LATER = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})

#: Said instead of the error's own message, which tells about our insides.
_DISCREET: Mapping[type[errors.DownloaddError], str] = {
    errors.StateUnavailable: "The job store cannot be reached. Try again in a few seconds.",
    errors.StorageUnavailable: "The storage cannot be reached. Try again in a few seconds.",
    errors.ObjectMissing: "There is no such file, or it was removed after its time.",
}

#: What aiohttp refuses, by status.
CODES: Mapping[int, str] = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    412: "precondition_failed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    417: "expectation_failed",
    503: "unavailable",
}
_MESSAGES: Mapping[int, str] = {
    404: "There is nothing at this address.",
    405: "This address does not take this method.",
}

#: What aiohttp's refusals tell besides their status.
_HEADERS = ("Accept-Encoding", "Content-Range", "Retry-After", "Sec-WebSocket-Version")

_INTERNAL = "Something went wrong on the server. The request id finds it in the log."


def status_of(error: type[errors.DownloaddError]) -> HTTPStatus | None:
    """The status that answers an error; None where it is none of the client's business."""
    return next((STATUSES[kind] for kind in error.__mro__ if kind in STATUSES), None)


def told(exc: errors.DownloaddError) -> tuple[str, str]:
    """The code and the message of an error as clients may know them."""
    if status_of(type(exc)) is None:
        return errors.DownloaddError.code, _INTERNAL
    message = next((text for kind, text in _DISCREET.items() if isinstance(exc, kind)), None)
    return exc.code, message or exc.message


def answer(request: web.BaseRequest, exc: errors.DownloaddError) -> web.Response | None:
    """The answer to an error that clients may see, else None."""
    status = status_of(type(exc))
    if status is None:
        return None
    code, message = told(exc)
    details = exc.details if isinstance(exc, errors.ValidationError) else None
    headers = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="downloadd"'
    if status in _LATER:
        wait = exc.retry_after if exc.retry_after is not None else RETRY_AFTER_SECONDS
        headers["Retry-After"] = str(max(1, math.ceil(wait)))
    title = "Validation Error" if isinstance(exc, errors.ValidationError) else status.phrase
    return _response(request, status, title, code, message, details, headers)


def http_answer(request: web.BaseRequest, exc: web.HTTPException) -> web.Response:
    """Aiohttp's own refusals (no such route, wrong method, body too large) in our form."""
    status = HTTPStatus(exc.status)
    # The default text is "404: Not Found"; a text of ours is a sentence.
    text = None if not exc.text or exc.text.startswith(f"{exc.status}:") else exc.text
    message = _MESSAGES.get(status) or text or f"{status.description or status.phrase}."
    headers = {name: exc.headers[name] for name in _HEADERS if name in exc.headers}
    if isinstance(exc, web.HTTPMethodNotAllowed):
        headers["Allow"] = allow(exc.allowed_methods)
    code = CODES.get(status, "http_error")
    return _response(request, status, status.phrase, code, message, None, headers)


def allow(methods: Iterable[str]) -> str:
    """The ``Allow`` header of an address that takes these; every one takes OPTIONS."""
    return ", ".join(sorted({*methods, "OPTIONS"}))


def internal_answer(request: web.BaseRequest) -> web.Response:
    """The answer to everything unforeseen: nothing about our insides."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = errors.DownloaddError.code
    return _response(request, status, status.phrase, code, _INTERNAL, None, {})


def _response(
    request: web.BaseRequest,
    status: HTTPStatus,
    title: str,
    code: str,
    message: str,
    details: Mapping[str, list[str]] | None,
    headers: Mapping[str, str],
) -> web.Response:
    body: dict[str, object] = {"error": title, "code": code, "message": message}
    if details:
        body["details"] = details
    body["requestId"] = request[REQUEST_ID]
    return web.json_response(body, status=status, headers=headers)
