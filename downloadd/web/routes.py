"""Which handler answers which path, and what surrounds them all."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from downloadd.access.caller import Authenticator
from downloadd.telemetry.metrics import Metrics
from downloadd.telemetry.tracing import Tracing
from downloadd.web import keys
from downloadd.web.body import MAX_BODY_BYTES
from downloadd.web.clients import Networks
from downloadd.web.handlers import (
    checking,
    deliveries,
    documents,
    events,
    files,
    jobs,
    making,
    managed,
    operations,
    sockets,
)
from downloadd.web.middleware.access import access
from downloadd.web.middleware.admission import Rate, admission, send_rate_headers
from downloadd.web.middleware.caching import send_cache_control
from downloadd.web.middleware.client import client
from downloadd.web.middleware.compression import compression
from downloadd.web.middleware.cors import preflight, send_cors_headers
from downloadd.web.middleware.errors import errors
from downloadd.web.middleware.options import options
from downloadd.web.middleware.request_id import request_id, send_request_id
from downloadd.web.middleware.security import send_security_headers
from downloadd.web.middleware.sending import sending
from downloadd.web.middleware.timeout import timeout
from downloadd.web.middleware.tracing import send_trace_id, tracing
from downloadd.web.naming import EXPORT, FOUR
from downloadd.web.views import Case

#: A job's id, or what a client takes for one; these calls have methods of their own.
_JOB = "/v1/download/{job_id:(?!(?:initiate|start|check|jobs)$)[^{}/]+}"
_EXPORT = "/v1/export/{job_id}"
_MANAGED = "/v1/download/job/{job_id}"

ROUTES = (
    web.get("/", operations.home),
    web.get("/openapi.json", documents.openapi),
    web.get("/docs", documents.page),
    web.get("/docs/{asset}", documents.asset),
    web.get("/health", operations.health),
    web.get("/health/live", operations.live),
    web.get("/health/ready", operations.ready),
    web.get("/metrics", operations.metrics),
    web.get("/ws", sockets.converse, allow_head=False),
    web.post("/v1/download/initiate", making.initiate),
    web.post("/v1/download/start", making.start),
    web.post("/v1/download/check", checking.check),
    web.post("/v1/export", making.export),
    web.get("/v1/download/jobs", jobs.listed),
    web.get("/v1/download/status/{job_id}", jobs.status()),
    web.get("/v1/download/subscribe/{job_id}", events.subscribe(upgrades=True), allow_head=False),
    web.get("/v1/download/stream/{job_id}", events.subscribe(FOUR), allow_head=False),
    web.get("/v1/download/result/{job_id}", jobs.result()),
    web.get(_EXPORT, jobs.status(usual=Case.CAMEL)),
    web.get(f"{_EXPORT}/progress", events.subscribe(EXPORT), allow_head=False),
    web.get(f"{_EXPORT}/download", jobs.result(usual=Case.CAMEL)),
    web.get(_MANAGED, managed.status),
    web.post(f"{_MANAGED}/retry", managed.retry),
    web.get(f"{_MANAGED}/download-url", managed.download_url),
    web.delete("/v1/download/cancel/{job_id}", jobs.cancel),
    web.get(_JOB, jobs.download),
    web.delete(_JOB, jobs.cancel),
    web.get(f"{_JOB}/deliveries", deliveries.deliveries),
    web.post(f"{_JOB}/deliveries/replay", deliveries.replay),
    web.post(f"{_JOB}/retry", jobs.retry()),
)
#: Where archives lie in a folder of this machine, it serves them itself.
LOCAL_ROUTES = (web.get("/v1/files/{key:.+}", files.archive),)


def make_application(
    *,
    metrics: Metrics,
    cors_origins: Collection[str],
    request_timeout: float,
    local_files: bool,
    authenticator: Authenticator | None = None,
    rate: Rate,
    spans: Tracing,
    trusted_proxies: Networks = (),
) -> web.Application:
    """An application with routes and middleware, without the resources that they use.

    ``request_timeout`` is in seconds; without an ``authenticator`` everybody is
    anonymous. The ``X-Forwarded-For`` of ``trusted_proxies`` is believed.
    """
    app = web.Application(
        middlewares=[
            tracing(spans),
            request_id,
            client(trusted_proxies),
            access(metrics),
            sending,
            preflight,
            options,
            compression,
            errors,
            timeout(request_timeout),
            admission(authenticator, rate, keys.LIMITER),
        ],
        client_max_size=MAX_BODY_BYTES,
    )
    app.on_response_prepare.append(send_request_id)
    app.on_response_prepare.append(send_trace_id)
    app.on_response_prepare.append(send_security_headers)
    app.on_response_prepare.append(send_rate_headers)
    app.on_response_prepare.append(send_cors_headers(cors_origins))
    app.on_response_prepare.append(send_cache_control)
    app.add_routes(ROUTES)
    if local_files:
        app.add_routes(LOCAL_ROUTES)
    return app
