"""What the server's log lines are called, and what is in them, by the calls that write them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

from downloadd.jobs.deliverer import DeliveryStatus
from downloadd.model import JobStatus
from tests.deploy.rules import ROOT

_LEVELS = {"debug", "info", "warning", "error", "exception", "log"}
#: Bound to the lines of a request or a job (SPEC, section 10).
_BOUND = {"traceId", "spanId", "requestId", "jobId", "fileId", "userId"}
#: What stands in place of {…} in a message.
_VALUES = {
    "job.": (JobStatus.COMPLETED, JobStatus.FAILED),
    "webhook.": (DeliveryStatus.GONE, DeliveryStatus.EXHAUSTED),
}


@cache
def _calls() -> tuple[ast.Call, ...]:
    return tuple(
        node
        for path in sorted((ROOT / "downloadd").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _logs(node.func)
    )


def _logs(function: ast.expr) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and function.attr in _LEVELS
        and isinstance(function.value, ast.Name)
        and function.value.id in ("log", "_log")
    )


def _names(call: ast.Call) -> Iterator[str]:
    for argument in call.args:
        match argument:
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr(values=[ast.Constant(value=str(start)), ast.FormattedValue()]):
                for value in _VALUES[start]:
                    yield f"{start}{value}"


def messages() -> frozenset[str]:
    """Every name that a line's "message" can have."""
    return frozenset(name for call in _calls() for name in _names(call))


def fields() -> frozenset[str]:
    """Every field that some line has of its own, and those that are bound."""
    return frozenset(
        word.arg for call in _calls() for word in call.keywords if word.arg is not None
    ) | frozenset(_BOUND)
