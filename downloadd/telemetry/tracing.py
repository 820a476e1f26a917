"""Traces: OpenTelemetry's spans, sent as OTLP over HTTP (SPEC §10).

Who runs no collector has ids all the same: each request belongs to a trace,
its caller's where there is one (W3C Trace Context), and so do its job and
their log lines. Spans are made and sent only with a collector's endpoint;
without one nothing of the SDK is imported, and a span is a look at the current
context.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
)

# What others know a span by.
from opentelemetry.trace import Span as Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from downloadd.errors import ConfigError, DownloaddError
from downloadd.model import Job
from downloadd.telemetry.scrub import scrub

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk.trace import TracerProvider

Attributes = Mapping[str, str | int | float | bool]

_PROPAGATOR = TraceContextTextMapPropagator()
#: Longer ones are passed over, whatever they say: W3C's own limit for what has to be passed on.
_MAX_LENGTH = 512
#: Spans that wait to be sent: those of two jobs of 1,000 files. The oldest go first.
_QUEUE = 8192
#: Seconds that the last spans may take to be sent when the process ends.
_LAST_SPANS = 1.0
#: Seconds for one request to the collector, retries included.
_EXPORT = 10.0

_NO_SPAN = nullcontext(trace.INVALID_SPAN)


class Tracing:
    """Makes the spans of one application. ``Tracing()`` makes none, only ids."""

    def __init__(
        self, provider: TracerProvider | None = None, stop: Callable[[bool], None] = lambda _: None
    ) -> None:
        """``stop`` ends what ``provider`` sends spans by; true: whatever it is at."""
        self._provider = provider
        self._stop = stop
        self._tracer = trace.NoOpTracer() if provider is None else provider.get_tracer("downloadd")

    @classmethod
    def to(cls, endpoint: str, *, service: str, version: str, ratio: float) -> Self:
        """Send spans to a collector; ``endpoint`` is its base URL, as OTel has it.

        ``ratio`` of the traces that begin here are kept; those of callers as
        they have decided. ``close`` sends what is left. Raises ``ConfigError``
        where the exporter is not installed, or the environment's variables of
        OpenTelemetry's are not what it takes.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as exc:
            raise ConfigError(
                "telemetry.otlp_endpoint needs the exporter: pip install 'downloadd[telemetry]'"
            ) from exc
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        session = _session()
        try:
            provider = TracerProvider(
                resource=Resource.create({"service.name": service, "service.version": version}),
                sampler=ParentBased(TraceIdRatioBased(ratio)),
                shutdown_on_exit=False,  # ``close`` does, in bounded time
            )
            if isinstance(provider.get_tracer("downloadd"), trace.NoOpTracer):
                return cls()  # OTEL_SDK_DISABLED
            exporter = OTLPSpanExporter(
                f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT, session=session
            )
            processor = BatchSpanProcessor(exporter, max_queue_size=_QUEUE)
        except Exception as exc:
            # What platforms set for all of their programs.
            reason = scrub(" ".join(str(exc).split()))
            raise ConfigError(
                f"A variable OTEL_… is not what OpenTelemetry takes: {reason}"
            ) from exc
        provider.add_span_processor(processor)

        def stop(busy: bool) -> None:
            if busy:
                exporter.shutdown()  # type: ignore[no-untyped-call]
            session.close()

        return cls(provider, stop)

    def close(self) -> None:
        """Send what is left, for a moment. Blocks."""
        if self._provider is not None:
            # It waits for half a minute where the collector hangs.
            ending = threading.Thread(target=self._provider.shutdown, daemon=True)
            ending.start()
            ending.join(_LAST_SPANS)
            self._stop(ending.is_alive())

    # --- requests ---

    def request(
        self, name: str, headers: Mapping[str, str], attributes: Attributes, *, kept: bool
    ) -> Span:
        """The span of a request, begun; it goes on with its caller's trace.

        ``kept``: it is sent; else it is there for its ids alone.
        """
        parent = _extract(headers)
        if kept and self._provider is not None:
            return self._tracer.start_span(
                name, parent, kind=SpanKind.SERVER, attributes=attributes
            )
        theirs = trace.get_current_span(parent)
        if theirs.get_span_context().is_valid:
            return theirs  # that of ours would be nowhere to be found
        made = secrets.randbits(128) | 1, secrets.randbits(64) | 1
        return NonRecordingSpan(SpanContext(*made, is_remote=False))

    # --- jobs ---

    def job(self, job: Job) -> Span:
        """The span of a worker's time with a job, begun.

        It belongs to the trace of the request that made the job, and is linked to
        that request's span and to what came last: the run before, or a retry's request.
        """
        known = [linked for it in (job.traceparent, job.run_traceparent) if (linked := _of(it))]
        return self._tracer.start_span(
            "download.process",
            _extract({"traceparent": job.traceparent or ""}),
            kind=SpanKind.CONSUMER,
            links=[Link(context) for context in known],
            attributes={
                "job.id": job.id,
                "job.attempt": job.attempts,
                "job.files": job.total_files,
            },
        )

    def step(self, name: str) -> AbstractContextManager[Span]:
        """Something that a job's worker does itself, as the current span."""
        return self._span(name, SpanKind.INTERNAL)

    def call(
        self, name: str, attributes: Attributes, *, after: Job | None = None
    ) -> AbstractContextManager[Span]:
        """A call to somebody else, as the current span.

        It is below the current one, or below what was last done for the job that it comes
        ``after``, whichever process did that.
        """
        if after is None:
            return self._span(name, SpanKind.CLIENT, attributes)
        known = after.run_traceparent or after.traceparent or ""
        return self._span(name, SpanKind.CLIENT, attributes, _extract({"traceparent": known}))

    def _span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes | None = None,
        context: Context | None = None,
    ) -> AbstractContextManager[Span]:
        if self._provider is None:
            return _NO_SPAN
        return within(self._tracer.start_span(name, context, kind, attributes))

    def outgoing(self) -> dict[str, str]:
        """The headers that tell who is called of the current span."""
        headers: dict[str, str] = {}
        if self._provider is not None:
            _PROPAGATOR.inject(headers)
        return headers


@contextmanager
def within(span: Span) -> Iterator[Span]:
    """Make a span the current one, and end it with the context, as failed where that fails."""
    with trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield span
        except asyncio.CancelledError:
            span.set_attribute("cancelled", True)
            raise
        except Exception as exc:
            fail_by(span, exc)
            raise


def fail(span: Span, kind: str, message: str | None = None) -> None:
    """Say of a span that it failed: the error's code, or what else it is called by."""
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, None if message is None else scrub(message))


def fail_by(span: Span, error: Exception) -> None:
    """Say of a span why it failed, without what no trace may hold."""
    if isinstance(error, DownloaddError):
        fail(span, error.code, error.message)
    else:
        fail(span, type(error).__name__)


def traceparent(span: Span) -> str | None:
    """A span's ids as the header has them; None where it has none."""
    if not (known := ids(span)):
        return None
    return f"00-{known['traceId']}-{known['spanId']}-{span.get_span_context().trace_flags:02x}"


def ids(span: Span) -> dict[str, str]:
    """What log lines call a span by; nothing of one that is nowhere to be found."""
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    return {
        "traceId": trace.format_trace_id(context.trace_id),
        "spanId": trace.format_span_id(context.span_id),
    }


def trace_id(span: Span) -> str:
    """The id of a span's trace, 32 hex digits."""
    return ids(span)["traceId"]


def _extract(headers: Mapping[str, str]) -> Context:
    """What the headers say of their sender's span; nothing where they are not proper."""
    carried = {
        name: headers[name]
        for name in ("traceparent", "tracestate")
        if name in headers and len(headers[name]) <= _MAX_LENGTH
    }
    return _PROPAGATOR.extract(carried, Context()) if "traceparent" in carried else Context()


def _session() -> requests.Session:
    """What spans are sent by: to the collector itself, and nowhere that it points to."""
    import requests

    def refuse_redirects(response: requests.Response, *_: object, **__: object) -> None:
        # The exporter takes all below 400 for success.
        if response.is_redirect:
            response.close()
            raise requests.ConnectionError(f"The collector redirects, with {response.status_code}.")

    session = requests.Session()
    session.trust_env = False
    session.hooks["response"].append(refuse_redirects)
    return session


def _of(header: str | None) -> SpanContext | None:
    context = trace.get_current_span(_extract({"traceparent": header or ""})).get_span_context()
    return context if context.is_valid else None
