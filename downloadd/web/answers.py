"""Answers in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from downloadd.web.views import dumps, etag

#: Seconds after which it makes sense to ask for a job's state again.
POLL_AFTER_SECONDS = 2


def json_answer(
    view: Mapping[str, Any], headers: Mapping[str, str] | None = None, *, status: int = 200
) -> web.Response:
    """An answer for its caller alone, kept by nobody on the way."""
    return web.json_response(
        view,
        status=status,
        dumps=dumps,
        headers={"Cache-Control": "private, no-store", **(headers or {})},
    )


def tagged_answer(
    request: web.Request, body: bytes, content_type: str, cache_control: str
) -> web.Response:
    """An answer with a tag; 304 where the client has it already."""
    tag = etag(body)
    headers = {
        # Weak: the answer may go out compressed, or not.
        "ETag": f'W/"{tag}"',
        "Cache-Control": cache_control,
        "Vary": "Accept-Encoding",
    }
    # Weak comparison, as RFC 9110 §13.1.2 has it for If-None-Match.
    if any(known.value in (tag, "*") for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)
