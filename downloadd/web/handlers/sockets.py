"""``GET /ws``: one WebSocket for several jobs, each pushed whole (seeds/002, SPEC §6)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import structlog
from aiohttp import web

from downloadd.access.caller import Caller
from downloadd.errors import DownloaddError, JobNotFound
from downloadd.jobs.service import JobService, lost
from downloadd.model import Job
from downloadd.web import keys
from downloadd.web.errors import told
from downloadd.web.handlers.events import BEGINNING
from downloadd.web.middleware.timeout import lift
from downloadd.web.origins import check_welcome
from downloadd.web.requests import caller_name, job_id_from, watcher_of, with_token
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

    async def on_message(socket: Socket, said: Mapping[str, Any]) -> None:
        job_id = said.get("job_id")
        if said.get("type") != "subscribe" or not isinstance(job_id, str):
            return
        _forget_ended(socket)
        if len(socket.senders) >= MAX_JOBS and job_id not in socket.senders:
            text = f"One connection follows {MAX_JOBS} jobs at most."
            await socket.send(_refusal(job_id, text, "too_many_jobs"))
        else:
            socket.follow(job_id, _send_job(request, socket, job_id, said.get("token")))

    draining = request.app[keys.LIFECYCLE].draining
    with request.app[keys.SLOTS].held(caller_name(request)):
        lift(request)
        return await request.app[keys.SOCKETS].converse(request, on_message, draining=draining)


def _forget_ended(socket: Socket) -> None:
    for job_id in [job_id for job_id, task in socket.senders.items() if task.done()]:
        del socket.senders[job_id]


async def _send_job(request: web.Request, socket: Socket, job_id: str, token: object) -> None:
    """Send a job as it is, and again whenever it has changed, until it has ended.

    ``token``: the job's event token, where the connection has no credential.
    """
    service = request.app[keys.SERVICE]
    known = None
    try:
        known = job_id_from(job_id)
        caller = watcher_of(request, known, token)
        job = await service.get(known, caller)
        await socket.send(_encode(request, job, caller))
        while not job.status.ended:
            # Once more where it was retried as soon as it had ended.
            async for changed in _changes(service, caller, job):
                job = changed
                await socket.send(_encode(request, job, caller))
    except DownloaddError as exc:
        code, text = told(exc)
        # What is no job's id could be anything.
        _log.info("websocket.cannot_follow", jobId=known, reason=exc.message)
        await socket.send(_refusal(job_id, text, code))
    except (ConnectionError, TimeoutError):
        socket.ending.set()


async def _changes(service: JobService, caller: Caller, job: Job) -> AsyncGenerator[Job]:
    """The job at each of its events, up to the last; lost, where Redis has forgotten it."""
    async with aclosing(service.watch(job, job.cursor or BEGINNING)) as events:
        async for event in events:
            try:
                job = await service.get(job.id, caller)
            except JobNotFound:
                job = lost(job)
            yield job
            if event.type.terminal or job.status.ended:
                return


def _encode(request: web.Request, job: Job, caller: Caller) -> str:
    return dumps(in_case(with_token(request, job_view(job), caller), job, Case.SNAKE))


def _refusal(job_id: str, text: str, code: str) -> str:
    # Half of a surrogate pair cannot be sent.
    shown = job_id[:64].encode(errors="backslashreplace").decode()
    return dumps({"job_id": shown, "error": text, "code": code})
