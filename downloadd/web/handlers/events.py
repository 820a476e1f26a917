"""A job's events, as Server-Sent Events or over a WebSocket (SPEC §5)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web
from aiohttp.typedefs import Handler

from downloadd.model import Event, EventType, Form, Job
from downloadd.web import keys
from downloadd.web.handshake import wants_websocket
from downloadd.web.middleware.timeout import lift
from downloadd.web.naming import CANONICAL, EXPORT, FOUR, Names, telling_status
from downloadd.web.origins import check_welcome
from downloadd.web.requests import caller_name, caller_of, case_of, job_id_of, with_token
from downloadd.web.slots import turn_to_answer
from downloadd.web.sse import last_event_id
from downloadd.web.views import Case, job_view

#: Before the first event of any stream.
BEGINNING = "0-0"


def subscribe(names: Names | None = None, *, upgrades: bool = False) -> Handler:
    """Return the handler of an event stream.

    ``names`` are those of its events; None: those that go with how the job was
    asked for. ``upgrades``: a WebSocket may be asked for in its place.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        if upgrades and wants_websocket(request):
            return await _connect(request)
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
    job = await service.get(job_id_of(request), caller_of(request))
    seen = last_event_id(request, job.cursor)
    if job.status.ended and seen is not None and seen == job.cursor:
        return web.Response(status=204)
    events = _events() if request.app[keys.LIFECYCLE].draining else _unseen(request, job, seen)
    if names is None:
        names = EXPORT if job.form is Form.EXPORT else CANONICAL
    if names is FOUR:
        events = telling_status(events)
    with request.app[keys.SLOTS].held(caller_name(request)):
        lift(request)
        return await request.app[keys.STREAMS].run(request, events, names, case)


async def _connect(request: web.Request) -> web.StreamResponse:
    """Answer with the same events as messages; one who has seen the last is sent nothing."""
    check_welcome(request, request.app[keys.CORS_ORIGINS])
    case = case_of(request) or Case.CAMEL
    job = await request.app[keys.SERVICE].get(job_id_of(request), caller_of(request))
    seen = last_event_id(request, job.cursor)
    draining = request.app[keys.LIFECYCLE].draining
    if draining or (job.status.ended and seen is not None and seen == job.cursor):
        events = _events()
    else:
        events = _unseen(request, job, seen)
    told = telling_status(events)
    with request.app[keys.SLOTS].held(caller_name(request)):
        lift(request)
        return await request.app[keys.SOCKETS].tell(request, told, case, draining=draining)


def _unseen(request: web.Request, job: Job, seen: str | None) -> AsyncGenerator[Event]:
    """The events after the one seen last, or for a new subscriber the status and all to come."""
    if seen is not None:
        return request.app[keys.SERVICE].watch(job, seen)
    return _from_status(request, job)


async def _events(*events: Event) -> AsyncGenerator[Event]:
    for event in events:
        yield event


async def _from_status(request: web.Request, job: Job) -> AsyncGenerator[Event]:
    # A client that loses its connection between this event and the last one of
    # an ended job comes back with this id, and must not be told that it has
    # seen the last one.
    service = request.app[keys.SERVICE]
    place = BEGINNING if job.status.ended else job.cursor or BEGINNING
    if job.status.ended:
        async with turn_to_answer(request, job):
            whole = await service.get(job.id, caller_of(request), files=True)
            data = with_token(request, job_view(whole))
            yield Event(type=EventType.STATUS, data=data, id=place)
    else:
        yield Event(type=EventType.STATUS, data=with_token(request, job_view(job)), id=place)
    async with aclosing(service.watch(job, job.cursor or BEGINNING)) as events:
        async for event in events:
            yield event
