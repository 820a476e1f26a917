"""What every handler asks of a request: its id, its caller, the job it names."""

from __future__ import annotations

import re

from aiohttp import web

from downloadd.errors import ValidationError
from downloadd.model import JobStatus
from downloadd.telemetry.tracing import trace_id
from downloadd.web.views import Case

#: The caller's ``X-Request-ID`` when it is sane, else ours.
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)

_TRACE_ID: web.RequestKey[str] = web.RequestKey("trace_id", str)

#: With ``auth.mode`` "none", the only one there is, everybody is this user.
ANONYMOUS = "anonymous"

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TRUE = {"true": True, "1": True, "false": False, "0": False}


def job_id_of(request: web.Request) -> str:
    """The job that the path names. ``ValidationError`` for what cannot be a job's id."""
    return job_id_from(request.match_info["job_id"])


def job_id_from(text: str) -> str:
    """The same of a text."""
    job_id = text.lower()
    if not _UUID4.fullmatch(job_id):
        raise ValidationError("The job id is not a UUID.", {"jobId": ["Must be a UUID (v4)."]})
    return job_id


def trace_of(request: web.Request) -> str:
    """The trace that the request belongs to, 32 hex digits: the same however often it is asked."""
    if _TRACE_ID not in request:
        request[_TRACE_ID] = trace_id(request.headers.get("traceparent"))
    return request[_TRACE_ID]


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
