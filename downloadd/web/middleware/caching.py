"""Answers that say nothing about caches are kept by none (RFC 9111 §5.2.2.5)."""

from __future__ import annotations

from aiohttp import web

#: For answers of the moment: errors, health, metrics.
NO_STORE = {"Cache-Control": "no-store"}


async def send_cache_control(_: web.Request, response: web.StreamResponse) -> None:
    """A signal handler, so that it sees what middleware answers, too."""
    for name, value in NO_STORE.items():
        response.headers.setdefault(name, value)
