"""Answers in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from downloadd.web.views import dumps

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
