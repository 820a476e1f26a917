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
def _methods() -> tuple[tuple[str, str, ast.Call], ...]:
    """Every call of a method: of what, which, and the call."""
    return tuple(
        (ast.unparse(node.func.value), node.func.attr, node)
        for path in sorted((ROOT / "downloadd").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )


def _calls() -> Iterator[ast.Call]:
    """The calls that write a line."""
    for owner, method, call in _methods():
        if owner in ("log", "_log") and method in _LEVELS:
            yield call


def spans() -> frozenset[str]:
    """The names of spans, but for those of requests."""
    made = (
        call.args[0]
        for owner, method, call in _methods()
        if (owner.endswith("tracing") and method in ("call", "step")) or method == "start_span"
    )
    return frozenset(it.value for it in made if isinstance(it, ast.Constant))


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
