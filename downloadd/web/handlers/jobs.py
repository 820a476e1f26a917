"""Jobs: make, look up, cancel, retry, and get at the archive."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from downloadd.errors import ServerStopping, ValidationError
from downloadd.jobs.service import JobRequest
from downloadd.telemetry.tracing import trace_id
from downloadd.web import keys
from downloadd.web.body import canonical_hash, json_object
from downloadd.web.requests import ANONYMOUS, flag_of, job_id_of
from downloadd.web.views import dumps, etag, job_view, result_view

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


async def initiate(request: web.Request) -> web.Response:
    """``POST /v1/download/initiate``; 503 while the process is being stopped."""
    if request.app[keys.LIFECYCLE].draining:
        raise ServerStopping("This server is being stopped and takes no more jobs. Try again.")
    body = await json_object(request)
    wanted = request.app[keys.INITIATE].read(body)
    job, created = await request.app[keys.SERVICE].make(
        JobRequest(
            user=ANONYMOUS,
            sources=wanted.sources,
            options=wanted.options,
            dedupe=wanted.dedupe,
            idempotency_key=_idempotency_key(request),
            body_hash=canonical_hash(body),
            trace_id=trace_id(request.headers.get("traceparent")),
            callback_url=wanted.callback_url,
        ),
    )
    view = job_view(job)
    headers = {"Location": view["statusUrl"]}
    if created.by_key and created.replayed:
        headers["Idempotent-Replayed"] = "true"
    if not created.replayed:
        request.app[keys.METRICS].initiated(ANONYMOUS)
    return _json(view, headers)


async def status(request: web.Request) -> web.Response:
    """``GET /v1/download/status/{jobId}``; 304 where the client has this answer already."""
    files = flag_of(request, "files")
    job_id = job_id_of(request)
    job = await request.app[keys.SERVICE].get(job_id, ANONYMOUS, files=files)
    if job.status.ended and not files:
        job = await request.app[keys.SERVICE].get(job_id, ANONYMOUS, files=True)
    body = dumps(job_view(job, files=files)).encode()
    tag = etag(body)
    # Weak comparison, as RFC 9110 §13.1.2 has it for If-None-Match.
    known = request.if_none_match or ()
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if any(one.value in (tag, "*") for one in known):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)


async def cancel(request: web.Request) -> web.Response:
    """``DELETE /v1/download/{jobId}`` and ``DELETE /v1/download/cancel/{jobId}``."""
    job = await request.app[keys.SERVICE].cancel(job_id_of(request), ANONYMOUS)
    return _json(job_view(job))


async def retry(request: web.Request) -> web.Response:
    """``POST /v1/download/{jobId}/retry``."""
    view = job_view(await request.app[keys.SERVICE].retry(job_id_of(request), ANONYMOUS))
    return _json(view, {"Location": view["statusUrl"]})


async def result(request: web.Request) -> web.Response:
    """``GET /v1/download/result/{jobId}``."""
    job, archive, link = await request.app[keys.SERVICE].link(job_id_of(request), ANONYMOUS)
    return _json(result_view(job, archive, link))


async def download(request: web.Request) -> web.Response:
    """``GET /v1/download/{jobId}``: a link that can be mailed around."""
    _, _, link = await request.app[keys.SERVICE].link(job_id_of(request), ANONYMOUS)
    # Not web.HTTPFound, whose text would show the signed URL once more.
    return web.Response(
        status=302,
        headers={"Location": link.url, "Cache-Control": "private, no-store"},
    )


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        problem = "Must have 1 to 255 printable ASCII characters."
        raise ValidationError(f"Idempotency-Key: {problem}", {"Idempotency-Key": [problem]})
    return key


def _json(view: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(
        view,
        dumps=dumps,
        headers={"Cache-Control": "private, no-store", **(headers or {})},
    )
