"""How callers were told of a job's end, and telling them again."""

from __future__ import annotations

from aiohttp import web

from downloadd.web import keys
from downloadd.web.answers import json_answer
from downloadd.web.requests import caller_of, job_id_of
from downloadd.web.views import deliveries_view


async def deliveries(request: web.Request) -> web.Response:
    """``GET /v1/download/{jobId}/deliveries``."""
    found = await request.app[keys.DELIVERIES].of(job_id_of(request), caller_of(request))
    return json_answer(deliveries_view(*found))


async def replay(request: web.Request) -> web.Response:
    """``POST /v1/download/{jobId}/deliveries/replay``; 202: it is sent behind the answer."""
    found = await request.app[keys.DELIVERIES].replay(job_id_of(request), caller_of(request))
    return json_answer(deliveries_view(*found), status=202)
