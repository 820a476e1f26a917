"""What every test stands on: nothing of the machine's own settings or home."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from downloadd.config.sources import WELL_KNOWN

# The first text of a new clone alone takes seconds: speed is for bench/ to judge.
settings.register_profile(
    "downloadd",
    parent=settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("downloadd")

_PREFIXES = ("DOWNLOADD_", "AWS_", "OTEL_", "XDG_")


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No setting, account or home folder of whoever runs the tests reaches them."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_PREFIXES) or name.removesuffix("_FILE") in WELL_KNOWN:
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        # botocore would ask the cloud's metadata address who we are.
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # Nothing here has a certificate of the world's; each of a thousand servers and
        # clients would read them all. Tests of TLS name their own.
        patch.setenv("SSL_CERT_FILE", os.devnull)
        patch.setenv("SSL_CERT_DIR", str(home))
        yield home


@pytest.fixture(scope="session", autouse=True)
def _usual_signals() -> None:
    """Under nohup, or in the background of a script, what tests start would ignore some too."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    for number, handler in usual.items():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end how many hostile cases were tried (``tests/security``)."""
    reports = terminalreporter.getreports("passed")
    counts = [text for it in reports for name, text in it.user_properties if name == "hostile"]
    if counts:
        terminalreporter.write_sep("=", "hostile cases tried")
        for text in sorted(set(map(str, counts))):
            terminalreporter.write_line(text)
