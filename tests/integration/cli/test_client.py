"""The API's client, against servers that answer in every way but the right one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from downloadd.cli import client as module
from downloadd.cli.client import ApiClient, ServerEvent
from downloadd.errors import ServerRefused, ServerUnreachable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.01)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[ApiClient]]]:
    """Make a client of a server whose every answer is the handler's."""
    servers, clients = [], []

    async def start(handler: Handler) -> ApiClient:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        context = ApiClient.open(URL(str(server.make_url("/"))))
        client = await context.__aenter__()
        clients.append(context)
        return client

    yield start
    for context in clients:
        await context.__aexit__(None, None, None)
    for server in servers:
        await server.close()


Serve = Callable[[Handler], Awaitable[ApiClient]]


async def stream(request: web.Request, *pieces: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
    return response


async def collected(client: ApiClient) -> list[ServerEvent]:
    return [event async for event in client.events("1")]


async def test_events_are_read_however_they_are_cut(serve: Serve) -> None:
    """Comments, line ends and pieces make no difference; the last event ends the stream."""
    text = (
        'retry: 3000\r\n\r\n: ping\r\n\r\nid: 1-0\r\nevent: status\r\ndata: {"a":"ü"}\r\n\r\n'
        'id:2-0\nevent:progress\ndata:{"a":2}\n\n'
        'event: complete\r\ndata: {"a":3}\r\n\r\nevent: progress\r\ndata: {"a":4}\r\n\r\n'
    ).encode()

    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream(request, *(text[at : at + 3] for at in range(0, len(text), 3)))

    assert await collected(await serve(handler)) == [
        ServerEvent(type="status", data={"a": "ü"}),
        ServerEvent(type="progress", data={"a": 2}),
        ServerEvent(type="complete", data={"a": 3}),
    ]


async def test_a_long_event_is_read(serve: Serve) -> None:
    """An event of several megabytes, one line, comes through."""
    data = {"files": ["x" * 1000] * 4000}

    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream(request, b"event: complete\ndata: %b\n\n" % json.dumps(data).encode())

    assert await collected(await serve(handler)) == [ServerEvent(type="complete", data=data)]


async def test_a_broken_stream_is_taken_up_again(serve: Serve) -> None:
    """It goes on after the last whole event, over answers of 503 and lost connections."""
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Last-Event-ID"))
        match len(seen):
            case 1:
                whole = b'id: 1-0\nevent: status\ndata: {"a":1}\n\n'
                return await stream(request, whole, b"id: 2-0\nevent: progress\nda")
            case 2:
                return web.Response(status=503)
            case 3:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case _:
                return await stream(request, b'id: 2-0\nevent: failed\ndata: {"a":2}\n\n')

    events = await collected(await serve(handler))
    assert [event.data["a"] for event in events] == [1, 2]
    assert seen == [None, "1-0", "1-0", "1-0"]


async def test_204_ends_the_stream(serve: Serve) -> None:
    """A server that says that the last event was seen is believed."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    assert await collected(await serve(handler)) == []


async def test_a_server_that_stays_away_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its patience the client says so."""
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.1)

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    client = await serve(handler)
    with pytest.raises(ServerRefused, match="503"):
        await collected(client)


async def test_an_error_is_the_servers_sentence(serve: Serve) -> None:
    """Message, code, status and details of an error answer come through."""
    body = {"error": "X", "code": "validation_error", "message": "No.", "details": {"a": ["b"]}}

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=400)

    client = await serve(handler)
    with pytest.raises(ServerRefused) as caught:
        await client.initiate({})
    error = caught.value
    assert (error.message, error.code, error.status) == ("No.", "validation_error", 400)
    assert error.details == {"a": ["b"]}
    assert not error.transient


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 502, "text": "<html>Bad gateway</html>", "content_type": "text/html"},
        {"status": 200, "text": "<html>Hello</html>", "content_type": "text/html"},
        {"status": 200, "text": "[1]", "content_type": "application/json"},
        {"status": 200, "text": "{", "content_type": "application/json"},
        {"status": 404, "body": b"\xff\xfe"},
    ],
)
async def test_answers_of_something_else(serve: Serve, answer: dict[str, object]) -> None:
    """What is no downloadd server is named as such, whatever it answers."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(**answer)  # type: ignore[arg-type]

    client = await serve(handler)
    with pytest.raises(ServerRefused, match="not as a downloadd server would"):
        await client.job("1")


async def test_an_event_stream_that_is_none(serve: Serve) -> None:
    """A page in place of an event stream is refused, not asked for again and again."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>", content_type="text/html")

    client = await serve(handler)
    with pytest.raises(ServerRefused, match="does not answer as a downloadd server"):
        await collected(client)


async def test_a_lost_connection_is_transient(serve: Serve) -> None:
    """A server that hangs up is unreachable, and the sentence names it without its password."""

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    client = await serve(handler)
    with pytest.raises(ServerUnreachable, match="the connection broke off"):
        await client.job("1")
    assert ServerUnreachable.transient
