"""Logs and counts every request, under its route's template."""

from __future__ import annotations

import logging
import time
from http import HTTPStatus

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from downloadd.telemetry.metrics import UNMATCHED, Metrics
from downloadd.web.clients import client_of

#: Asked every few seconds by machines, for ever.
PROBED = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})

_log = structlog.get_logger("downloadd.access")


def access(metrics: Metrics) -> Middleware:
    """Return the middleware that tells ``metrics`` and the log."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        # nginx's status for a client that went away before its answer.
        status = 499
        try:
            response = await handler(request)
            status = response.status
        finally:
            seconds = time.perf_counter() - began
            path = template(request)
            metrics.requested(request.method, path, status, seconds)
            if status == HTTPStatus.TOO_MANY_REQUESTS:
                metrics.rate_limited.inc()
            _log.log(
                _level(path, status),
                "http.request",
                method=request.method,
                path=path,
                status=status,
                durationMs=round(seconds * 1000, 1),
                remote=client_of(request),
            )
        return response

    return middleware


def template(request: web.Request) -> str:
    """The route's path with its placeholders: as many values as there are routes."""
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical


def _level(path: str, status: int) -> int:
    """Of interest is what probes are told only where it is bad news."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return logging.WARNING
    return logging.DEBUG if path in PROBED else logging.INFO
