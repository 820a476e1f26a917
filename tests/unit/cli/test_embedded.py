"""How a command ends when it is told to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from downloadd.cli.embedded import run_to_end

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def ignored(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    before = signal.signal(request.param, signal.SIG_IGN)
    yield request.param
    signal.signal(request.param, before)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_no_signal_breaks_into_what_ends_a_command(number: signal.Signals) -> None:
    """The first signal decides the status; others wait until a removal under way is done."""
    removed = False

    async def command() -> int:
        nonlocal removed
        try:
            signal.raise_signal(number)
            await asyncio.sleep(10)
            pytest.fail("the signal did not end it")
        finally:
            for another in SIGNALS:
                signal.raise_signal(another)
            removed = True
        return 0

    assert run_to_end(command()) == 128 + number
    assert removed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("ignored", SIGNALS, indirect=True, ids=lambda number: number.name)
def test_what_is_ignored_stays_ignored(ignored: signal.Signals) -> None:
    """Under nohup, or in the background of a script, a command goes on."""

    async def command() -> int:
        signal.raise_signal(ignored)
        await asyncio.sleep(0.01)
        return 0

    assert run_to_end(command()) == 0
