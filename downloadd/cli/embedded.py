"""A whole server inside a command: its own folder, its own port, gone when the command ends."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from downloadd.cli.serve import Serving, fast_loop, serving
from downloadd.config import load
from downloadd.telemetry import logs

#: Ctrl-C, ``kill``, a terminal that was closed.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@asynccontextmanager
async def embedded_server(
    *,
    allow: Sequence[str] = (),
    log_level: str = "error",
) -> AsyncIterator[Serving]:
    """A server on loopback that keeps everything in a temporary folder.

    It listens to no environment and no file but ``TMPDIR``: where the folder,
    and so the archive, is to be. ``allow`` is ``network.allow``. Raises
    ``ConfigError`` for an entry of it that makes no sense, and what
    ``serving`` raises.
    """
    with tempfile.TemporaryDirectory(prefix="downloadd-") as folder:
        settings = load(
            None,
            {},
            {
                "server.host": "127.0.0.1",
                "server.port": 0,
                "state.data_dir": str(Path(folder) / "data"),
                "storage.kind": "local",
                "network.allow": list(allow),
                # Nobody else asks it.
                "limits.requests_per_minute": 1_000_000,
                "telemetry.log_level": log_level,
            },
        )
        logs.configure(level=settings.telemetry.log_level)
        async with serving(settings) as server:
            yield server


def run_to_end(main: Coroutine[Any, Any, int]) -> int:
    """Run a command to its exit status. A signal to end cancels it, so that it can clean up.

    The status is then 128 and the signal's number, as shells have it.
    """
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        return runner.run(_cancelled_by_signals(main))


async def _cancelled_by_signals(main: Coroutine[Any, Any, int]) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None:
        raise RuntimeError("a command runs in a task")
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    # By the loop, so that none breaks into what runs between two awaits: the
    # removal of a folder, above all. What is ignored stays so: nohup, "&".
    numbers = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        return await main
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
