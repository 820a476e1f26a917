"""Gives each request its span (SPEC §10): log lines, answers and its job carry the span's ids."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from downloadd.telemetry.tracing import Span, Tracing, fail, within
from downloadd.web.middleware.access import PROBED, template
from downloadd.web.requests import SPAN, trace_of


def tracing(tracing: Tracing) -> Middleware:
    """Return the middleware. The outermost: what others log belongs to the span too."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = template(request)
        method = request.method if request.method in hdrs.METH_ALL else "_OTHER"
        span = tracing.request(
            f"{method} {path}",
            request.headers,
            {"http.request.method": method, "http.route": path},
            # Nobody looks for the traces of probes.
            kept=path not in PROBED,
        )
        request[SPAN] = span
        with within(span):
            response = await handler(request)
            _describe(span, response.status)
            return response

    return middleware


def _describe(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        fail(span, str(status))


async def send_trace_id(request: web.Request, response: web.StreamResponse) -> None:
    """Tell in a header too: a proxy's log, and who has an error in hand, find the trace by it."""
    if SPAN in request:
        response.headers["X-Trace-Id"] = trace_of(request)
