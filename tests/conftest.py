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

#: Files that take a minute or more, the longest first. One after the other, and among others,
#: they neither disturb each other nor are what the end of a run waits for.
_LONG = (
    "faults/test_kill.py",
    "faults/test_finishing.py",
    "e2e/test_big_job.py",
    "faults/test_acknowledged.py",
    "faults/test_processes.py",
    "faults/test_valkey_away.py",
    "faults/test_storage_away.py",
    "faults/test_disk.py",
    "integration/jobs/test_sharing.py",
    "faults/test_drain.py",
    "faults/test_leaks.py",
    "integration/test_archive_tools.py",
    "e2e/test_schemathesis.py",
    "faults/test_stored.py",
)

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put a file's tests together, and the files in the order in which they are best begun."""
    by_file: dict[Path, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(item.path, []).append(item)
    short, long = [], []
    for path in sorted(by_file, key=lambda path: -len(by_file[path])):
        (long if path.as_posix().endswith(_LONG) else short).append(path)
    long.sort(key=_place)
    items[:] = [item for path in _mixed(long, short) for item in by_file[path]]


def _place(path: Path) -> int:
    return next(place for place, it in enumerate(_LONG) if path.as_posix().endswith(it))


def _mixed(long: list[Path], short: list[Path]) -> Iterator[Path]:
    """A long one now and then, from the beginning on."""
    step = len(short) // len(long) if long else 0
    for number, path in enumerate(long):
        yield path
        yield from short[number * step : (number + 1) * step]
    yield from short[len(long) * step :]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end how many hostile cases were tried (``tests/security``)."""
    reports = terminalreporter.getreports("passed")
    counts = [text for it in reports for name, text in it.user_properties if name == "hostile"]
    if counts:
        terminalreporter.write_sep("=", "hostile cases tried")
        for text in sorted(set(map(str, counts))):
            terminalreporter.write_line(text)
