"""Ids of requests and jobs where no spans are made."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace

from downloadd.errors import ConfigError
from downloadd.model import Job
from downloadd.telemetry import logs
from downloadd.telemetry.tracing import Tracing, trace_id, traceparent, within
from tests.collector import Collector
from tests.unit.telemetry.conftest import own_logging

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def begun(**headers: str) -> str:
    """The trace of a request with these headers."""
    return trace_id(Tracing().request("GET /", headers, {}, kept=True))


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged."""
    stream = io.StringIO()
    with own_logging():
        logs.configure(stream=stream)
        yield stream


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


def test_tracestate_is_its_vendors_affair(stream: io.StringIO) -> None:
    """One that is too long, or none, loses nobody their trace, and writes nothing to the log."""
    header = f"00-{TRACE}-{SPAN}-01"
    for state in ("k=" + "v" * 600, "!!hunter2", ",".join(f"k{i}=v" for i in range(60)), "é"):
        assert begun(traceparent=header, tracestate=state) == TRACE
    assert stream.getvalue() == ""


def test_a_job_has_its_requests_ids() -> None:
    """What a worker logs names the span of the request, where it has none of its own.

    That is the caller's, where nobody here makes any: others could find it.
    """
    header = f"00-{TRACE}-{SPAN}-01"
    request = Tracing().request("POST /", {"traceparent": header}, {}, kept=True)
    assert traceparent(request) == header
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


NOWHERE = "http://127.0.0.1:9"


def opened(endpoint: str = NOWHERE) -> Tracing:
    return Tracing.to(endpoint, service="s", version="1", ratio=1.0)


def test_the_sdk_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are there all the same."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    request = opened().request("GET /", {}, {}, kept=True)
    assert int(trace_id(request), 16)
    assert not request.is_recording()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-1"),
    ],
)
def test_variables_of_a_platform(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenTelemetry does not take stops the start in one line."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="OTEL_") as caught:
        opened()
    assert "\n" not in caught.value.message


def test_secrets_for_the_collector(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers that are written wrongly are not repeated in the log."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team:hunter2, api-key hunter2")
    opened().close()
    assert "hunter2" not in stream.getvalue()


async def test_a_collector_that_points_elsewhere(stream: io.StringIO) -> None:
    """It is no success, and is told; one line a minute is enough."""
    async with Collector() as collector:
        collector.points_to = "/login"
        tracing = opened(collector.url)
        for _ in range(3):
            with tracing.step("archive.append"):
                pass
        await asyncio.to_thread(tracing.close)
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["level"], "redirects" in line["message"]) == ("warning", True), line
    assert collector.spans == []


def test_the_exporter_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants traces is told what to install."""
    exporter = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, exporter, None)
    with pytest.raises(ConfigError, match=r"pip install 'downloadd\[telemetry\]'"):
        opened()
