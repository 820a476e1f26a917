"""What every handler asks of a request: its id, its caller, the job it names."""

from __future__ import annotations

import re
from typing import Any

import structlog
from aiohttp import web

from downloadd.access.caller import ANONYMOUS, NOBODY, Caller
from downloadd.access.event_tokens import EventTokens
from downloadd.errors import Unauthorized, ValidationError
from downloadd.model import JobStatus
from downloadd.telemetry.tracing import Span, trace_id
from downloadd.web.clients import site_of
from downloadd.web.views import Case

#: The caller's ``X-Request-ID`` when it is sane, else ours.
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)

#: As the middleware has begun it.
SPAN: web.RequestKey[Span] = web.RequestKey("span", Span)

#: Who calls, as the middleware has found out; not there where nobody was asked.
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)

#: Only there where callers have to say who they are.
EVENT_TOKENS: web.AppKey[EventTokens] = web.AppKey("event_tokens", EventTokens)

#: What an event token is called in a query.
TOKEN = "token"  # noqa: S105 - a name

NO_CREDENTIAL = (
    "Say who you are: by an API key or a token in Authorization, as Bearer, "
    "or by an API key in X-API-Key."
)

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TRUE = {"true": True, "1": True, "false": False, "0": False}


def job_id_of(request: web.Request) -> str:
    """The job that the path names. ``ValidationError`` for what cannot be a job's id.

    Log lines of the request carry it from here on.
    """
    job_id = job_id_from(request.match_info["job_id"])
    structlog.contextvars.bind_contextvars(jobId=job_id)
    return job_id


def job_id_from(text: str) -> str:
    """The same of a text."""
    job_id = text.lower()
    if not _UUID4.fullmatch(job_id):
        raise ValidationError("The job id is not a UUID.", {"jobId": ["Must be a UUID (v4)."]})
    return job_id


def caller_of(request: web.Request) -> Caller:
    """Who calls. ``Unauthorized`` where that has to be known and is not."""
    if CALLER not in request:
        raise Unauthorized(NO_CREDENTIAL)
    return request[CALLER]


def watcher_of(request: web.Request, job_id: str, token: object) -> Caller:
    """Who watches a job: by its event token where one is given, else who calls."""
    tokens = request.app.get(EVENT_TOKENS)
    if tokens is not None and isinstance(token, str):
        return tokens.identify(token, job_id)
    return caller_of(request)


def caller_name(request: web.Request) -> str:
    """What a caller is counted by: their name, or the site that they are at."""
    caller = request.get(CALLER, ANONYMOUS)
    known = caller.role != NOBODY and caller.job_id is None
    return f"user {caller.user}" if known else f"address {site_of(request)}"


def with_token(
    request: web.Request, view: dict[str, Any], caller: Caller | None = None
) -> dict[str, Any]:
    """A view of a job whose ``subscribeUrl`` works where headers cannot be sent (SPEC §7).

    ``caller`` sees the job; None: as whoever makes the request. Not for one who
    does by such a token alone: it would be renewed for ever.
    """
    tokens, caller = request.app.get(EVENT_TOKENS), caller or request.get(CALLER)
    if tokens is None or caller is None or caller.job_id is not None:
        return view
    if "subscribeUrl" not in view:
        return view
    token = tokens.make(view["jobId"])
    return {**view, "subscribeUrl": f"{view['subscribeUrl']}?{TOKEN}={token}"}


def trace_of(request: web.Request) -> str:
    """The trace that the request belongs to, 32 hex digits."""
    return trace_id(request[SPAN])


def flag_of(request: web.Request, name: str) -> bool:
    """A switch in the query, false where it is not given."""
    value = request.query.get(name, "false")
    if value not in _TRUE:
        raise ValidationError(f"{name} is neither true nor false.", {name: ["true or false."]})
    return _TRUE[value]


def number_of(request: web.Request, name: str, *, default: int, most: int) -> int:
    """A number from 1 in the query. ``ValidationError`` for another, or one above ``most``."""
    value = request.query.get(name)
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", value) or not 1 <= int(value) <= most:
        rule = f"Must be an integer from 1 to {most:,}."
        raise ValidationError(f"{name}: {rule}", {name: [rule]})
    return int(value)


def statuses_of(request: web.Request) -> frozenset[JobStatus]:
    """The statuses in the query, separated by commas; none where it gives none."""
    given = request.query.get("status", "")
    try:
        return frozenset(JobStatus(value) for value in given.split(",") if given)
    except ValueError as exc:
        rule = f"Must be one of: {', '.join(JobStatus)}; several with commas between."
        raise ValidationError(f"status: {rule}", {"status": [rule]}) from exc


def case_of(request: web.Request) -> Case | None:
    """How the caller wants names to be written (``?case=``); None: as the job was asked for."""
    value = request.query.get("case")
    if value is None:
        return None
    try:
        return Case(value)
    except ValueError as exc:
        raise ValidationError(
            "case is neither camel nor snake.", {"case": ["camel or snake."]}
        ) from exc
