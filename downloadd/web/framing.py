"""A request's head, looked at before the application is: how its body comes, and whether at all.

aiohttp takes a body in any coding that ends with chunked for what is in it,
and asks for the body (RFC 9110 §10.1.1) before anybody has looked at who sends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import ERROR
from multidict import CIMultiDict, CIMultiDictProxy

from downloadd.web.errors import http_answer
from downloadd.web.middleware.caching import NO_STORE
from downloadd.web.middleware.request_id import identify
from downloadd.web.middleware.security import HEADERS
from downloadd.web.requests import REQUEST_ID

#: The client waits to be asked for the body: what it expects.
_EXPECTS: web.RequestKey[bool] = web.RequestKey("expects", bool)

#: It is of a version of HTTP that has other messages.
_FOREIGN: web.RequestKey[bool] = web.RequestKey("foreign", bool)

#: What aiohttp says of bytes that do not make a request.
_ERROR = ERROR._replace(version=HttpVersion11)

Serve = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_log = structlog.get_logger(__name__)


def judging(handle: Serve, on_refusal: Callable[[str, int], None]) -> Serve:
    """Serve what comes as this server can read it, and refuse the rest.

    ``on_refusal`` is told the method and the status of what never gets to the application.
    """

    async def judged(request: web.BaseRequest) -> web.StreamResponse:
        if (refused := _refused(request)) is not None:
            identify(request)
            known = {"remote": request.remote, "requestId": request[REQUEST_ID]}
            _log.info("http.refused", problem=type(refused).__name__, **known)
            on_refusal(request.method, refused.status)
            return last(request, http_answer(request, refused))
        response = await handle(request)
        if request.get(_EXPECTS) and not response.prepared:
            # Nobody has asked: what it sends next may be the body, or another request.
            response.force_close()
        return response

    return judged


def _refused(request: web.BaseRequest) -> web.HTTPException | None:
    if _FOREIGN in request:
        return web.HTTPBadRequest(text="This server speaks HTTP/1.1, and HTTP/1.0.")
    if any(request.headers.getall("Expect", ())):
        return web.HTTPExpectationFailed(
            text="This server can meet no expectation but 100-continue."
        )
    codings = [it.strip().lower() for it in request.headers.getall("Transfer-Encoding", ())]
    if codings and codings != ["chunked"]:
        return web.HTTPBadRequest(text="This server reads no Transfer-Encoding but chunked.")
    if codings and request.version < HttpVersion11:
        # Whether what stands before it has read it so is a guess (RFC 9112 §6.1).
        return web.HTTPBadRequest(text="There is no Transfer-Encoding before HTTP/1.1.")
    return None


async def ask_for_body(request: web.BaseRequest) -> None:
    """Let the body come, where its client waits to be asked for it."""
    if request.get(_EXPECTS):
        request[_EXPECTS] = False
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The answer itself has not begun.
        request.writer.output_size = 0


def _is_ours(version: HttpVersion) -> bool:
    return HttpVersion10 <= version < (2, 0)


def last(request: web.BaseRequest, response: web.Response) -> web.Response:
    """Give an answer that the application's signals do not see what they would give it."""
    response.headers.update({"X-Request-ID": request[REQUEST_ID], **HEADERS, **NO_STORE})
    response.force_close()
    return response


def request_factory(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Make requests as this module wants them.

    Answers to what is no request are of our version of HTTP (RFC 9110 §2.5),
    not 1.0; and aiohttp does not see that a client waits for a 100.
    """

    def factory(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        if message is ERROR:
            return make(_ERROR, payload, protocol, writer, task)
        ours = _is_ours(message.version)
        patient = [it.lower() for it in message.headers.getall("Expect", ())] == ["100-continue"]
        if ours and not patient:
            return make(message, payload, protocol, writer, task)
        headers = CIMultiDict(message.headers)
        headers.popall("Expect", None)
        changed = message._replace(
            headers=CIMultiDictProxy(headers), version=message.version if ours else HttpVersion11
        )
        request = make(changed, payload, protocol, writer, task)
        if not ours:
            request[_FOREIGN] = True
        request[_EXPECTS] = message.version >= HttpVersion11
        return request

    return factory
