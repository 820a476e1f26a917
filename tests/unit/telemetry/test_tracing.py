"""Trace ids of requests."""

from __future__ import annotations

import logging
import re

import pytest

from downloadd.telemetry.tracing import trace_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


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
    assert trace_id(header) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
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
def test_begins_a_trace(header: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """Without a valid header each request has a trace of its own, and nobody fills the log."""
    with caplog.at_level(logging.DEBUG):
        first, second = trace_id(header), trace_id(header)
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert len({first, second, TRACE, "0" * 32}) == 4
    assert not caplog.records
