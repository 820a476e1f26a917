"""Logs as another program reads them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings
from typing import Any

import pytest
import structlog

from downloadd.telemetry import logs

pytestmark = pytest.mark.usefixtures("_as_it_was")


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    """Every line as the object that it holds."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_object_a_line(stream: io.StringIO) -> None:
    """A line has its level, time, service, message, the bound context and its own fields."""
    logs.configure(stream=stream, service="files")
    structlog.contextvars.bind_contextvars(requestId="r-1", jobId="j-1")
    structlog.get_logger().info("fetched", fileId="7", text="two\nlines é")
    (line,) = written(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "service": "files",
        "message": "fetched",
        "requestId": "r-1",
        "jobId": "j-1",
        "fileId": "7",
        "text": "two\nlines é",
    }


def test_fields_cannot_displace_what_every_line_has(stream: io.StringIO) -> None:
    """A field called like one of the fixed ones does not replace it."""
    logs.configure(stream=stream)
    structlog.get_logger().info("real", service="other", message="other")
    (line,) = written(stream)
    assert (line["service"], line["message"]) == ("downloadd", "real")


def test_values_that_json_does_not_know(stream: io.StringIO) -> None:
    """A line is written whatever its values are."""
    logs.configure(stream=stream)
    structlog.get_logger().info("odd", a={1}, b=b"\xff", c=OSError("no"), d={(1, 2): 3})
    (line,) = written(stream)
    assert line["c"] == "no"


def test_standard_library_comes_the_same_way(stream: io.StringIO) -> None:
    """Libraries' records and warnings are lines like our own, with the context."""
    logs.configure(stream=stream)
    structlog.contextvars.bind_contextvars(requestId="r-1")
    logging.getLogger("botocore.retry").warning("try %d", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = written(stream)
    assert first["message"] == "try 2"
    assert (first["logger"], first["requestId"]) == ("botocore.retry", "r-1")
    assert second["logger"] == "py.warnings"


def test_tracebacks_have_no_local_variables(stream: io.StringIO) -> None:
    """An exception is told with its traceback, without the values of the frames."""

    def fail() -> None:
        hidden = "".join(("hun", "ter2"))
        raise ValueError(len(hidden))

    for log_format in ("json", "console"):
        logs.configure(stream=stream, log_format=log_format)
        try:
            fail()
        except ValueError:
            structlog.get_logger().exception("failed")
            logging.getLogger("aiohttp.server").exception("failed too")
    assert stream.getvalue().count("ValueError: 7") == 4
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "ours", "theirs"),
    [
        ("debug", ["debug", "info", "warning", "error"], ["info", "warning", "error"]),
        ("info", ["info", "warning", "error"], ["warning", "error"]),
        ("warning", ["warning", "error"], ["warning", "error"]),
        ("error", ["error"], ["error"]),
    ],
)
def test_levels(level: str, ours: list[str], theirs: list[str], stream: io.StringIO) -> None:
    """Below its level nothing is written; libraries are quieter than we are."""
    logs.configure(stream=stream, level=level)
    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger(), name)("ours")
        getattr(logging.getLogger("lib"), name)("theirs")
    lines = written(stream)
    assert [line["level"] for line in lines if line["message"] == "ours"] == ours
    assert [line["level"] for line in lines if line["message"] == "theirs"] == theirs


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_credentials_do_not_come_through(log_format: str, stream: io.StringIO) -> None:
    """Whatever path a credential takes into a line, in either format, it is masked."""
    logs.configure(stream=stream, log_format=log_format)
    log = structlog.get_logger()
    url = "https://ada:hunter2@h.example/x?X-Amz-Signature=hunter2&a=1"
    log.info("fetching", url=url, headers={"Authorization": "Bearer hunter2.x"}, token="hunter2")
    log.info("nested", data=[{"deep": OSError(url)}])
    logging.getLogger("lib").warning("GET %s", url)
    try:
        raise OSError(url)
    except OSError:
        log.exception("failed")
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("h.example") == 4


def test_a_stream_that_fails_fails_nobody() -> None:
    """A full disk, a reader that has gone or a closed file does not reach the caller."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    for stream in (Full(), closed):
        logs.configure(stream=stream)
        structlog.get_logger().error("lost")
        logging.getLogger("lib").error("lost")


def test_console_where_there_is_a_terminal() -> None:
    """ "auto" writes for people on a terminal, JSON elsewhere."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        logs.configure(stream=stream)
        structlog.get_logger().info("hello", n=1)
    assert "hello" in terminal.getvalue()
    with pytest.raises(ValueError, match=r"Expecting value"):
        json.loads(terminal.getvalue())
    assert written(file)[0]["message"] == "hello"


async def test_context_belongs_to_its_task(stream: io.StringIO) -> None:
    """Two requests at once do not see each other's context."""
    logs.configure(stream=stream)
    both = asyncio.Barrier(2)

    async def request(name: str) -> None:
        structlog.contextvars.bind_contextvars(requestId=name)
        await both.wait()
        structlog.get_logger().info(name)

    await asyncio.gather(request("a"), request("b"))
    assert {line["message"]: line["requestId"] for line in written(stream)} == {"a": "a", "b": "b"}
