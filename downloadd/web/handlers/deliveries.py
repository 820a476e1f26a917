"""How callers were told of a job's end, and telling them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from downloadd.model import Job, iso8601
from downloadd.ports import Attempt, Message
from downloadd.urls import redact
from downloadd.web import keys
from downloadd.web.answers import json_answer
from downloadd.web.requests import ANONYMOUS, job_id_of


async def deliveries(request: web.Request) -> web.Response:
    """``GET /v1/download/{jobId}/deliveries``."""
    found = await request.app[keys.DELIVERIES].of(job_id_of(request), ANONYMOUS)
    return _json(*found)


async def replay(request: web.Request) -> web.Response:
    """``POST /v1/download/{jobId}/deliveries/replay``; 202: it is sent behind the answer."""
    found = await request.app[keys.DELIVERIES].replay(job_id_of(request), ANONYMOUS)
    return _json(*found, status=202)


def _json(job: Job, messages: Sequence[Message], *, status: int = 200) -> web.Response:
    view = {
        "jobId": job.id,
        "callbackUrl": None if job.callback_url is None else redact(job.callback_url),
        "deliveries": [_message(message) for message in messages],
    }
    return json_answer(view, status=status)


def _message(message: Message) -> dict[str, Any]:
    view = {
        "id": message.id,
        "type": message.type,
        "status": message.status.value,
        "createdAt": iso8601(message.created_at),
        "attempts": [_attempt(attempt) for attempt in message.attempts],
    }
    if message.next_at is not None:
        view["nextAttemptAt"] = iso8601(message.next_at)
    return view


def _attempt(attempt: Attempt) -> dict[str, Any]:
    view = {
        "at": iso8601(attempt.at),
        "durationMs": round(attempt.duration * 1000),
        "status": attempt.status,
        "error": attempt.error,
    }
    return {name: value for name, value in view.items() if value is not None}
