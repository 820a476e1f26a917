"""Logs: one JSON object a line, or coloured text on a terminal (SPEC §10).

Both structlog and the standard library's loggers (aiohttp, asyncio, botocore)
write through here. Context is bound with ``structlog.contextvars``:
traceId, spanId, requestId, jobId, fileId, userId.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO, cast

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from downloadd.telemetry.scrub import scrub
from downloadd.telemetry.tracing import ids

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(
    *,
    level: str = "info",
    log_format: str = "auto",
    service: str = "downloadd",
    stream: TextIO | None = None,
    report: Processor | None = None,
) -> None:
    """Direct all logs to ``stream``, standard error by default.

    ``log_format`` is "json", "console", or "auto": console where the stream
    is a terminal. Libraries are heard from "warning" up, or from "info" when
    ``level`` is "debug": below that they log requests with their headers.
    ``report`` is shown each line before it is written.
    """
    output = Output(stream)
    render = _console() if _wants_console(log_format, output) else _json(service)
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _trace_ids,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if report is not None:
        first.append(report)
    last: list[Processor] = [structlog.processors.format_exc_info, render, _scrubbed]
    number = _LEVELS[level]
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", output)),
        cache_logger_on_first_use=True,
    )
    libraries = logging.INFO if number < logging.INFO else max(number, logging.WARNING)
    _route_standard_library(output, first, last, libraries)


class Output:
    """A stream that never fails: a log that cannot be written must not end a job.

    Without a stream it is whatever ``sys.stderr`` is at the time.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    @property
    def stream(self) -> TextIO | None:
        return self._stream if self._stream is not None else sys.stderr

    def write(self, text: str) -> None:
        # A full disk or a reader that has gone (OSError), a closed file (ValueError),
        # no standard error at all (None): there is nobody left to tell.
        if (stream := self.stream) is not None:
            try:
                stream.write(text)
            except (OSError, ValueError):
                return

    def flush(self) -> None:
        if (stream := self.stream) is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                return

    def isatty(self) -> bool:
        try:
            return self.stream is not None and self.stream.isatty()
        except ValueError:  # closed
            return False


def _wants_console(log_format: str, output: Output) -> bool:
    return log_format == "console" or (log_format == "auto" and output.isatty())


def _json(service: str) -> Processor:
    """Render the fields that every line has first, in the same order."""

    def render(_: WrappedLogger, __: str, event: EventDict) -> str:
        head = {
            "timestamp": event.pop("timestamp"),
            "level": event.pop("level"),
            "service": service,
            "message": event.pop("event"),
        }
        # A field of the same name must not displace one of these.
        line = {**head, **event, **head}
        return json.dumps(line, default=str, skipkeys=True, ensure_ascii=False)

    return render


def _console() -> Processor:
    # The default formatter would print every frame's local variables.
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def _scrubbed(_: WrappedLogger, __: str, text: Any) -> str:
    return scrub(text)


def _route_standard_library(
    output: Output,
    first: list[Processor],
    last: list[Processor],
    level: int,
) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_logger_name, *first],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(formatter)
    handler.addFilter(_Seldom("opentelemetry"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Their warnings repeat what clients send, which may be tokens, or what the
    # environment holds for the collector, which is a secret.
    for name in ("aiohttp.websocket", "opentelemetry.trace.span", "opentelemetry.util.re"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(True)


def _trace_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Name the span that the line was written in, where there is one."""
    for name, value in ids(trace.get_current_span()).items():
        event.setdefault(name, value)
    return event


class _Seldom(logging.Filter):
    """Lets one line a minute pass of a library that complains for each try, as a warning."""

    _PAUSE = 60.0

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = logging.Filter(library)
        self._last = -self._PAUSE

    def filter(self, record: logging.LogRecord) -> bool:
        if not self._library.filter(record):
            return True
        now = time.monotonic()
        if now - self._last < self._PAUSE:
            return False
        self._last = now
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def _logger_name(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["logger"] = event["_record"].name
    return event
