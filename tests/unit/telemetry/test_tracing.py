"""Ids of requests and jobs where no spans are made."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest
from opentelemetry import trace

from downloadd.errors import ConfigError
from downloadd.model import Job
from downloadd.telemetry.tracing import Tracing, trace_id, traceparent, within

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def begun(**headers: str) -> str:
    """The trace of a request with these headers."""
    return trace_id(Tracing().request("GET /", headers, {}, kept=True))


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-00",
        f"cc-{TRACE}-{SPAN}-01-more",
    ],
)
def test_goes_on_with_the_callers_trace(header: str) -> None:
    """A valid traceparent gives its trace id, of a later version too (W3C §4.3)."""
    assert begun(traceparent=header) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01-" + "x" * 600,
    ],
)
def test_begins_a_trace(header: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without a valid header each request has a trace of its own, and nobody fills the log."""
    with caplog.at_level(logging.DEBUG):
        first, second = begun(traceparent=header), begun(traceparent=header)
        third = begun(tracestate="k=" + "v" * 600)
    assert all(re.fullmatch("[0-9a-f]{32}", it) for it in (first, second, third))
    assert len({first, second, third, begun(), TRACE, "0" * 32}) == 6
    assert not caplog.records


def test_a_job_has_its_requests_ids() -> None:
    """What a worker logs names the span of the request, where it has none of its own."""
    request = Tracing().request("POST /", {"traceparent": f"00-{TRACE}-{SPAN}-01"}, {}, kept=True)
    header = traceparent(request)
    assert header is not None
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-01", header)
    assert SPAN not in header
    job = Job(id="j", total_files=1, created_at=0.0, updated_at=0.0, traceparent=header)
    assert job.trace_id == TRACE
    work = Tracing().job(job)
    with within(work), Tracing().call("source.fetch", {}):
        assert traceparent(trace.get_current_span()) == header
        assert Tracing().outgoing() == {}
    assert not work.is_recording()
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_job_of_nobody_knows() -> None:
    """A job without ids is worked on without."""
    job = Job(id="j", total_files=1, created_at=0.0, updated_at=0.0)
    assert job.trace_id is None
    assert traceparent(Tracing().job(job)) is None


def test_what_is_not_wanted_is_not_imported() -> None:
    """Who sets neither a collector nor Sentry has neither in memory."""
    heavy = ("opentelemetry.exporter", "opentelemetry.sdk.trace.export", "sentry_sdk", "requests")
    code = "import sys, downloadd.cli.serve; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "downloadd.telemetry.sentry" in done.stdout
    assert [name for name in done.stdout.split() if name.startswith(heavy)] == []


def test_the_exporter_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants traces is told what to install."""
    exporter = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, exporter, None)
    with pytest.raises(ConfigError, match=r"pip install 'downloadd\[telemetry\]'"):
        Tracing.to("http://127.0.0.1:4318", service="s", version="1", ratio=1.0)
