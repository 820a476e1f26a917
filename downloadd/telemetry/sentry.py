"""Errors to Sentry: whatever is logged as an error, with the ids that its line has.

Nothing else is collected: no request, no environment, no local variable. What
a message or an exception's text may carry is scrubbed as log lines are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from structlog.typing import EventDict, WrappedLogger

from downloadd.errors import ConfigError
from downloadd.telemetry.scrub import scrub

if TYPE_CHECKING:
    from sentry_sdk.client import Client

_LEVELS = frozenset({"error", "critical"})
#: What events can be found by.
_TAGS = ("requestId", "jobId", "fileId", "traceId", "logger")
#: Their own trouble is logged, and not sent by way of them.
_SENDERS = ("sentry_sdk", "urllib3", "opentelemetry")
#: Seconds that the last events may take when the process ends.
_LAST_EVENTS = 1.0

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class Reporter:
    """Sends errors to Sentry, from a thread of its own. A structlog processor."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @classmethod
    def open(cls, dsn: str, *, release: str) -> Self:
        """Send to the project that ``dsn`` names; ``ConfigError`` without Sentry's SDK."""
        try:
            from sentry_sdk.client import Client
        except ImportError as exc:
            raise ConfigError(
                "telemetry.sentry_dsn needs Sentry's SDK: pip install 'downloadd[telemetry]'"
            ) from exc
        return cls(
            Client(
                dsn=dsn,
                release=release,
                default_integrations=False,
                auto_session_tracking=False,
                include_local_variables=False,
                max_request_body_size="never",
                # Not by what the environment says for other programs.
                debug=False,
                spotlight=False,
                before_send=lambda event, _: _scrubbed(event),
            )
        )

    def close(self) -> None:
        """Send what is left, for a moment. Blocks."""
        self._client.close(timeout=_LAST_EVENTS)

    def flush(self, seconds: float) -> None:
        """Send what there is. Blocks so long at most."""
        self._client.flush(timeout=seconds)

    def __call__(self, _: WrappedLogger, __: str, line: EventDict) -> EventDict:
        """Report a line that is an error; the line goes on, and says so where that failed."""
        if line.get("level") in _LEVELS and not str(line.get("logger", "")).startswith(_SENDERS):
            try:
                self._report(line)
            except Exception as exc:  # whoever logs is not to fail for it
                line["notReported"] = f"{type(exc).__name__}: {exc}"
        return line

    def _report(self, line: Mapping[str, Any]) -> None:
        from sentry_sdk.utils import event_from_exception

        event: dict[str, Any] = {}
        if (exc_info := _exc_info(line.get("exc_info"))) is not None:
            event, _ = event_from_exception(  # type: ignore[assignment]
                exc_info,
                client_options=self._client.options,
                mechanism={"type": "logging", "handled": True},
            )
        event |= {
            "level": "error",
            "logger": line.get("logger", "downloadd"),
            "logentry": {"message": str(line.get("event"))},
            "tags": {name: str(line[name]) for name in _TAGS if line.get(name) is not None},
            "extra": {"fields": _written(line)},
        }
        if "traceId" in line and "spanId" in line:
            ids = {"trace_id": line["traceId"], "span_id": line["spanId"]}
            event["contexts"] = {"trace": ids}
        self._client.capture_event(event)  # type: ignore[arg-type]


#: Fields of a line that have a place of their own, or none.
_OWN = frozenset({"event", "level", "timestamp", "exc_info", "spanId", "userId"})


def _written(line: Mapping[str, Any]) -> str:
    """A line's own fields as the log has them: names and values together can be scrubbed."""
    apart = _OWN.union(_TAGS)
    fields = {name: it for name, it in line.items() if name not in apart and name[:1] != "_"}
    return json.dumps(fields, default=str, skipkeys=True, ensure_ascii=False)


def _exc_info(given: object) -> _ExcInfo | None:
    """What is meant by ``exc_info=`` in a call to a logger."""
    if isinstance(given, BaseException):
        return type(given), given, given.__traceback__
    found = given if isinstance(given, tuple) else sys.exc_info() if given else None
    return found if found is not None and found[0] is not None else None


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {key: _scrubbed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(item) for item in value]
    return value
