"""``POST /v1/download/check``: what there is, before a job is made of it."""

from __future__ import annotations

from aiohttp import web

from downloadd.web import keys
from downloadd.web.answers import json_answer
from downloadd.web.body import json_object
from downloadd.web.middleware.timeout import time_left
from downloadd.web.requests import caller_name, caller_of, trace_of
from downloadd.web.views import availability_view, preflight_view

#: How much of a request's time is kept for the answer.
_ANSWER_SHARE = 1 / 6


async def check(request: web.Request) -> web.Response:
    """Whether one file is there, by its id alone; with any other body what a job would find."""
    body = await json_object(request)
    sources = request.app[keys.INITIATE].read(body).sources
    preflight = request.app[keys.PREFLIGHT]
    seconds = time_left(request) - request.app[keys.REQUEST_TIMEOUT] * _ANSWER_SHARE
    trace = trace_of(request)
    if body.keys() == {"file_id"}:
        return json_answer(availability_view(await preflight.look_at(sources[0], seconds), trace))
    await request.app[keys.QUOTAS].look(caller_of(request), caller_name(request))
    return json_answer(preflight_view(await preflight.look(sources, seconds), trace))
