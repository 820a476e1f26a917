"""What of a log Sentry hears."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import AsyncIterator

import pytest
import structlog

from downloadd.errors import ConfigError
from downloadd.telemetry import logs
from downloadd.telemetry.sentry import Reporter
from tests.collector import SentryProject

#: Not written where the test is: events show the lines around a failure.
HIDDEN, USER = "hunter2", "lovelace"


pytestmark = pytest.mark.usefixtures("_as_it_was")


@pytest.fixture
async def sentry() -> AsyncIterator[SentryProject]:
    async with SentryProject() as project:
        yield project


async def test_errors_are_reported(sentry: SentryProject) -> None:
    """An error goes there with its ids, its exception and its fields; nothing less does."""
    reporter = Reporter.open(sentry.dsn, release="downloadd@1")
    stream = io.StringIO()
    logs.configure(stream=stream, report=reporter)
    structlog.contextvars.bind_contextvars(requestId="r-1", jobId="j-1", userId=USER)
    log = structlog.get_logger()
    log.info("job.started")
    log.warning("job.failed")
    try:
        raise ValueError(f"https://h/f?X-Amz-Signature={HIDDEN}&a=1")
    except ValueError:
        log.exception(
            "job.crashed",
            headers={"x-api-key": HIDDEN, "cookie": HIDDEN},
            nested=[{"password": HIDDEN}],
            url=f"https://{USER}:{HIDDEN}@h/",
            again={"x": [f"sig={HIDDEN}"]},
        )
    logging.getLogger("asyncio").error("Task failed: Authorization: Bearer %s", HIDDEN)
    logging.getLogger("urllib3.connectionpool").error("not this")
    await sentry.until(lambda: len(sentry.events) == 2)
    reporter.close()
    crash, task = sentry.events
    assert crash["tags"] == {"requestId": "r-1", "jobId": "j-1"}
    assert (crash["level"], crash["logentry"]["message"]) == ("error", "job.crashed")
    (exception,) = crash["exception"]["values"]
    assert exception["type"] == "ValueError"
    assert exception["value"] == "https://h/f?X-Amz-Signature=***&a=1"
    frame = exception["stacktrace"]["frames"][-1]
    assert frame["function"] == "test_errors_are_reported"
    assert "vars" not in frame
    assert crash["release"] == "downloadd@1"
    assert task["tags"]["logger"] == "asyncio"
    sent = b"".join(sentry.bodies).decode()
    assert HIDDEN not in sent
    assert USER not in sent
    # What is told there is told here, too.
    assert stream.getvalue().count("job.crashed") == 1


def test_what_cannot_be_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is written all the same, and says so; whoever wrote it goes on."""
    reporter = Reporter.open("http://key@127.0.0.1:9/1", release="downloadd@1")
    stream = io.StringIO()
    logs.configure(stream=stream, report=reporter)

    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("It has no text.")

    monkeypatch.setattr(reporter._client, "capture_event", lambda _: str(Odd()))
    structlog.get_logger().error("job.crashed")
    reporter.close()
    line = json.loads(stream.getvalue())
    assert (line["message"], line["notReported"]) == (
        "job.crashed",
        "RuntimeError: It has no text.",
    )


def test_the_sdk_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants it is told what to install."""
    monkeypatch.setitem(sys.modules, "sentry_sdk.client", None)
    with pytest.raises(ConfigError, match=r"pip install 'downloadd\[telemetry\]'"):
        Reporter.open("https://key@127.0.0.1/1", release="downloadd@1")
