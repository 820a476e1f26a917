"""``GET /ws``: one WebSocket for several jobs, each pushed whole (seeds/002, SPEC §6)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import structlog
from aiohttp import web

from downloadd.errors import DownloaddError, JobNotFound
from downloadd.jobs.service import JobService, lost
from downloadd.model import Job
from downloadd.web import keys
from downloadd.web.errors import told
from downloadd.web.handlers.events import BEGINNING
from downloadd.web.middleware.timeout import lift
from downloadd.web.origins import check_welcome
from downloadd.web.requests import ANONYMOUS, job_id_from
from downloadd.web.views import Case, dumps, in_case, job_view
from downloadd.web.websocket import Socket

_log = structlog.get_logger(__name__)

#: Jobs that one connection may follow.
MAX_JOBS = 20


async def converse(request: web.Request) -> web.StreamResponse:
    """Follow what ``{"type": "subscribe", "job_id": ...}`` names, until the client goes.

    Each message is the job itself in snake_case; where it cannot be followed,
    ``{"job_id", "error", "code"}``. A subscription without a job is none yet.
    """
    check_welcome(request, request.app[keys.CORS_ORIGINS])
    service = request.app[keys.SERVICE]

    async def on_message(socket: Socket, said: Mapping[str, Any]) -> None:
        job_id = said.get("job_id")
        if said.get("type") != "subscribe" or not isinstance(job_id, str):
            return
        _forget_ended(socket)
        if len(socket.senders) >= MAX_JOBS and job_id not in socket.senders:
            text = f"One connection follows {MAX_JOBS} jobs at most."
            await socket.send(_refusal(job_id, text, "too_many_jobs"))
        else:
            socket.follow(job_id, _send_job(service, socket, job_id))

    lift(request)
    draining = request.app[keys.LIFECYCLE].draining
    return await request.app[keys.SOCKETS].converse(request, on_message, draining=draining)


def _forget_ended(socket: Socket) -> None:
    for job_id in [job_id for job_id, task in socket.senders.items() if task.done()]:
        del socket.senders[job_id]


async def _send_job(service: JobService, socket: Socket, job_id: str) -> None:
    """Send a job as it is, and again whenever it has changed, until it has ended."""
    try:
        job = await service.get(job_id_from(job_id), ANONYMOUS)
        await socket.send(_encode(job))
        while not job.status.ended:
            # Once more where it was retried as soon as it had ended.
            async for changed in _changes(service, job):
                job = changed
                await socket.send(_encode(job))
    except DownloaddError as exc:
        code, text = told(exc)
        _log.info("websocket.cannot_follow", jobId=job_id[:64], reason=exc.message)
        await socket.send(_refusal(job_id, text, code))
    except (ConnectionError, TimeoutError):
        socket.ending.set()


async def _changes(service: JobService, job: Job) -> AsyncGenerator[Job]:
    """The job at each of its events, up to the last; lost, where Redis has forgotten it."""
    async with aclosing(service.watch(job, job.cursor or BEGINNING)) as events:
        async for event in events:
            try:
                job = await service.get(job.id, ANONYMOUS)
            except JobNotFound:
                job = lost(job)
            yield job
            if event.type.terminal or job.status.ended:
                return


def _encode(job: Job) -> str:
    return dumps(in_case(job_view(job), job, Case.SNAKE))


def _refusal(job_id: str, text: str, code: str) -> str:
    return dumps({"job_id": job_id[:64], "error": text, "code": code})
