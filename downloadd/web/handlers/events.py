"""A job's events as Server-Sent Events (SPEC §5)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web
from aiohttp.typedefs import Handler

from downloadd.jobs.service import JobService
from downloadd.model import Event, EventType, Form, Job
from downloadd.web import keys
from downloadd.web.middleware.timeout import lift
from downloadd.web.naming import CANONICAL, EXPORT, FOUR, Names, telling_status
from downloadd.web.requests import ANONYMOUS, case_of, job_id_of
from downloadd.web.sse import last_event_id
from downloadd.web.views import Case, job_view

#: Before the first event of any stream.
BEGINNING = "0-0"


def subscribe(names: Names | None = None) -> Handler:
    """Return the handler of an event stream.

    ``names`` are those of its events; None: those that go with how the job was asked for.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        return await _subscribe(request, names)

    return handler


async def _subscribe(request: web.Request, names: Names | None) -> web.StreamResponse:
    """Answer with the job's events, in camelCase unless ``?case=snake`` asks otherwise.

    204, on which an ``EventSource`` stops reconnecting, when the client has
    seen the job's last event. While the server is being stopped a stream has
    no events: its end brings the client back, to the next process, as an
    error would not.
    """
    case = case_of(request) or Case.CAMEL
    service = request.app[keys.SERVICE]
    job = await service.get(job_id_of(request), ANONYMOUS)
    seen = last_event_id(request, job.cursor)
    if job.status.ended and seen is not None and seen == job.cursor:
        return web.Response(status=204)
    if request.app[keys.LIFECYCLE].draining:
        events = _events()
    elif seen is not None:
        events = service.watch(job, seen)
    else:
        if job.status.ended:
            job = await service.get(job.id, ANONYMOUS, files=True)
        events = _from_status(service, job)
    if names is None:
        names = EXPORT if job.form is Form.EXPORT else CANONICAL
    if names is FOUR:
        events = telling_status(events)
    lift(request)
    return await request.app[keys.STREAMS].run(request, events, names, case)


async def _events(*events: Event) -> AsyncGenerator[Event]:
    for event in events:
        yield event


async def _from_status(service: JobService, job: Job) -> AsyncGenerator[Event]:
    # A client that loses its connection between this event and the last one of
    # an ended job comes back with this id, and must not be told that it has
    # seen the last one.
    place = BEGINNING if job.status.ended else job.cursor or BEGINNING
    yield Event(type=EventType.STATUS, data=job_view(job), id=place)
    async with aclosing(service.watch(job, job.cursor or BEGINNING)) as events:
        async for event in events:
            yield event
