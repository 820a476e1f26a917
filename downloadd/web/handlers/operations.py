"""What operators and balancers ask: health, readiness, metrics, and who is there."""

from __future__ import annotations

import math

from aiohttp import web

from downloadd import __version__
from downloadd.errors import StateError
from downloadd.web import keys
from downloadd.web.errors import RETRY_AFTER_SECONDS

_LATER = {"Retry-After": str(RETRY_AFTER_SECONDS)}


async def health(request: web.Request) -> web.Response:
    """``GET /health``: is everything there that jobs need?"""
    results = await request.app[keys.HEALTH].results()
    well = all(results.values())
    return web.json_response(
        {
            "status": "healthy" if well else "unhealthy",
            "checks": {name: "ok" if good else "error" for name, good in results.items()},
        },
        status=200 if well else 503,
        headers={} if well else _LATER,
    )


async def live(_: web.Request) -> web.Response:
    """``GET /health/live``: the process answers, so it lives."""
    return web.json_response({"status": "alive"})


async def ready(request: web.Request) -> web.Response:
    """``GET /health/ready``: 503 while the process is being stopped."""
    draining = request.app[keys.LIFECYCLE].draining
    return web.json_response(
        {"status": "draining" if draining else "ready"},
        status=503 if draining else 200,
        headers=_LATER if draining else {},
    )


async def metrics(request: web.Request) -> web.Response:
    """``GET /metrics``: Prometheus text. Without Redis the queue's depth is not a number."""
    known = request.app[keys.METRICS]
    try:
        known.download_queue_depth.set(await request.app[keys.QUEUE_DEPTH]())
    except StateError:
        known.download_queue_depth.set(math.nan)
    body, content_type = known.render()
    return web.Response(body=body, headers={"Content-Type": content_type})


async def home(_: web.Request) -> web.Response:
    """``GET /``: who answers here."""
    return web.json_response(
        {
            "name": "downloadd",
            "version": __version__,
            "message": "All these files as one download: POST /v1/download/initiate.",
            "docs": "/docs",
        },
    )
