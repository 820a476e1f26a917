"""What operators and balancers ask: health, readiness, metrics, and who is there."""

from __future__ import annotations

import asyncio

from aiohttp import web

from downloadd import __version__
from downloadd.errors import StateError
from downloadd.web import keys
from downloadd.web.errors import RETRY_AFTER_SECONDS

#: How long a scrape waits for Redis and for the disk.
_PATIENCE_SECONDS = 0.5

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
    """``GET /metrics``: Prometheus text. What cannot be told now is not a number in it."""
    app = request.app
    depth, up, disk = await asyncio.gather(
        _queue_depth(app),
        app[keys.HEALTH].known(),
        app[keys.DISK].room(_PATIENCE_SECONDS),
    )
    app[keys.METRICS].look(queue_depth=depth, up=up, disk=disk)
    # Some ten milliseconds, for which nobody else is to wait.
    body, content_type = await asyncio.to_thread(app[keys.METRICS].render)
    return web.Response(body=body, headers={"Content-Type": content_type})


async def _queue_depth(app: web.Application) -> int | None:
    """Ask Redis, but not until Prometheus gives up waiting for all the rest."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await app[keys.QUEUE_DEPTH]()
    except (StateError, TimeoutError):
        return None


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
