"""The trace that a request belongs to (W3C Trace Context)."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
_IDS = RandomIdGenerator()
# The propagator logs a warning for longer ones, which any caller could cause at will.
_MAX_LENGTH = 512


def trace_id(traceparent: str | None) -> str:
    """Return the trace id of a ``traceparent`` header, 32 hex digits.

    Where there is none, or it is not valid (W3C Trace Context §3.2), the
    request begins a trace of its own.
    """
    if traceparent and len(traceparent) <= _MAX_LENGTH:
        context = _PROPAGATOR.extract({"traceparent": traceparent})
        parent = trace.get_current_span(context).get_span_context()
        if parent.is_valid:
            return trace.format_trace_id(parent.trace_id)
    return trace.format_trace_id(_IDS.generate_trace_id())
