"""What operators send to: a collector of traces and a project of Sentry's, as receivers.

They speak the real protocols: OTLP by the official protobufs, and envelopes as
Sentry's own SDK reads them.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire
from sentry_sdk.envelope import Envelope


@dataclass(frozen=True, kw_only=True)
class Span:
    """A span as it came."""

    name: str
    #: Ids are hex; ``parent`` is empty where there is none.
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    message: str
    attributes: Mapping[str, Any]
    events: Sequence[str]
    #: Trace and span of each.
    links: frozenset[tuple[str, str]]
    resource: Mapping[str, Any]


class _Listener:
    """A server on a free port, as an async context manager."""

    path = ""

    def __init__(self) -> None:
        #: Every body that came, as it was before compression.
        self.bodies: list[bytes] = []
        #: Answers nothing while this is not set.
        self.answering = asyncio.Event()
        self.answering.set()
        #: Where it sends whoever comes.
        self.points_to = ""
        self._came = asyncio.Condition()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post(self.path, self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.answering.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        await self.answering.wait()
        if self.points_to:
            return web.Response(status=302, headers={"Location": self.points_to})
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        answer = self._take(body)
        self.bodies.append(body)
        async with self._came:
            self._came.notify_all()
        return answer

    def _take(self, body: bytes) -> web.Response:
        raise NotImplementedError

    async def until(self, condition: Callable[[], Any], *, seconds: float = 30.0) -> Any:
        """Wait until what has come makes a condition true; return what it said."""
        async with asyncio.timeout(seconds), self._came:
            return await self._came.wait_for(condition)


class Collector(_Listener):
    """Takes traces as OTLP over HTTP."""

    path = "/v1/traces"

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Span] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def _take(self, body: bytes) -> web.Response:
        told = ExportTraceServiceRequest.FromString(body)
        for resource in told.resource_spans:
            known = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_span(wire, known) for wire in scope.spans]
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")


def _span(wire: Wire, resource: Mapping[str, Any]) -> Span:
    return Span(
        name=wire.name,
        trace=wire.trace_id.hex(),
        id=wire.span_id.hex(),
        parent=wire.parent_span_id.hex(),
        kind=wire.kind,
        failed=wire.status.code == 2,
        message=wire.status.message,
        attributes=_values(wire.attributes),
        events=[event.name for event in wire.events],
        links=frozenset((link.trace_id.hex(), link.span_id.hex()) for link in wire.links),
        resource=resource,
    )


def _values(attributes: Sequence[KeyValue]) -> dict[str, Any]:
    return {it.key: getattr(it.value, str(it.value.WhichOneof("value"))) for it in attributes}


class SentryProject(_Listener):
    """Takes events of Sentry's."""

    path = "/api/1/envelope/"

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    @property
    def dsn(self) -> str:
        return f"http://0123456789abcdef@127.0.0.1:{self.port}/1"

    def _take(self, body: bytes) -> web.Response:
        for item in Envelope.deserialize(body).items:
            if (event := item.get_event()) is not None:
                self.events.append(event)
        return web.json_response({})
