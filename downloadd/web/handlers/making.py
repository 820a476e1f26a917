"""New jobs: asked for in one form or another, and waited for or not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

import structlog
from aiohttp import web

from downloadd.errors import ServerStopping, TooManyRequests, ValidationError
from downloadd.jobs.service import JobRequest
from downloadd.model import Form, Job
from downloadd.ports import Created
from downloadd.telemetry.tracing import traceparent
from downloadd.web import keys
from downloadd.web.answers import POLL_AFTER_SECONDS, json_answer
from downloadd.web.body import canonical_hash, json_object
from downloadd.web.handlers.events import BEGINNING
from downloadd.web.middleware.timeout import time_left
from downloadd.web.origins import is_welcome
from downloadd.web.requests import SPAN, caller_name, caller_of, case_of, trace_of, with_token
from downloadd.web.schemas import Initiation
from downloadd.web.views import export_path, in_case, job_view, start_view, status_path

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
#: How much of a request's time the old synchronous call keeps for its answer.
ANSWER_SHARE = 1 / 6


async def initiate(request: web.Request) -> web.Response:
    """``POST /v1/download/initiate``; 503 while the process is being stopped."""
    body, wanted = await _read(request)
    form = Form.FILE if wanted.by_file_id else Form.CANONICAL
    return _created(request, *await _make(request, body, wanted, form))


async def export(request: web.Request) -> web.Response:
    """``POST /v1/export``: the same, in another form.

    A page may send it as plain text, as browsers do with a string, if it is
    one of those that may send JSON.
    """
    welcome = is_welcome(request, request.app[keys.CORS_ORIGINS])
    body, wanted = await _read(request, plain=welcome)
    return _created(request, *await _make(request, body, wanted, Form.EXPORT))


async def start(request: web.Request) -> web.Response:
    """``POST /v1/download/start``: waits for the end of a job of one file.

    202 with the job where that takes longer than proxies wait, or where the
    process is being stopped.
    """
    case = case_of(request)
    body, wanted = await _read(request)
    if not wanted.by_file_id:
        raise ValidationError("file_id: Give it.", {"file_id": ["Give the id of one file."]})
    job, created = await _make(request, body, wanted, Form.FILE)
    await _wait(request, job)
    job = await request.app[keys.SERVICE].get(job.id, caller_of(request))
    if not job.status.ended:
        later = _created(request, job, created, status=202)
        later.headers["Retry-After"] = str(POLL_AFTER_SECONDS)
        return later
    view = start_view(job, job.trace_id or trace_of(request))
    # Half of its names are in one case and half in the other, as they always were.
    return json_answer(view if case is None else in_case(view, job, case))


async def _wait(request: web.Request, job: Job) -> None:
    """Wait for the job's end: for a while, and for a client that is there."""
    seconds = time_left(request) - request.app[keys.REQUEST_TIMEOUT] * ANSWER_SHARE
    if seconds <= 0 or request.app[keys.LIFECYCLE].draining:
        return
    events = request.app[keys.SERVICE].watch(job, job.cursor or BEGINNING)
    with suppress(TimeoutError):
        async with aclosing(events), request.app[keys.STREAMS].held(request, seconds):
            async for _ in events:
                pass


async def _read(request: web.Request, *, plain: bool = False) -> tuple[dict[str, Any], Initiation]:
    if request.app[keys.LIFECYCLE].draining:
        raise ServerStopping("This server is being stopped and takes no more jobs. Try again.")
    body = await json_object(request, plain=plain)
    return body, request.app[keys.INITIATE].read(body)


async def _make(
    request: web.Request, body: Mapping[str, Any], wanted: Initiation, form: Form
) -> tuple[Job, Created]:
    # Of another form it is another request: its job would answer otherwise.
    told = body if form is not Form.EXPORT else {"export": body}
    caller = caller_of(request)
    asked = JobRequest(
        caller=caller,
        form=form,
        sources=wanted.sources,
        options=wanted.options,
        dedupe=wanted.dedupe,
        idempotency_key=_idempotency_key(request),
        body_hash=canonical_hash(told),
        traceparent=traceparent(request[SPAN]),
        callback_url=wanted.callback_url,
    )
    service = request.app[keys.SERVICE]
    try:
        async with request.app[keys.QUOTAS].admit(caller, caller_name(request)) as admission:
            job, created = await service.make(asked)
            admission.replayed = created.replayed
    except TooManyRequests:
        # Whoever asks once more for what is made already wants no new job.
        if (found := await service.find(asked)) is None:
            raise
        job, created = found
    structlog.contextvars.bind_contextvars(jobId=job.id)
    if not created.replayed:
        request.app[keys.METRICS].initiated(caller.role)
    return job, created


def _created(
    request: web.Request, job: Job, created: Created, *, status: int = 200
) -> web.Response:
    view = with_token(request, job_view(job))
    path = export_path if job.form is Form.EXPORT else status_path
    headers = {"Location": path(job.id)}
    if created.by_key and created.replayed:
        headers["Idempotent-Replayed"] = "true"
    return json_answer(in_case(view, job, case_of(request)), headers, status=status)


def _idempotency_key(request: web.Request) -> str | None:
    given = request.headers.getall("Idempotency-Key", ())
    if not given:
        return None
    if len(given) > 1 or not _IDEMPOTENCY_KEY.fullmatch(given[0]):
        problem = "Must be there once, with 1 to 255 printable ASCII characters."
        raise ValidationError(f"Idempotency-Key: {problem}", {"Idempotency-Key": [problem]})
    return given[0]
