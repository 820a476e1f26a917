"""One job from the request to its end, shown while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

from downloadd.cli.client import ApiClient
from downloadd.cli.progress import Display
from downloadd.errors import CommandError, ServerUnreachable

#: Seconds that a cancelled command takes to cancel its job.
_CANCEL_SECONDS = 5.0
#: Tries to read a job that has ended, a second apart.
_READ_TRIES = 10


async def run_job(
    client: ApiClient,
    body: Mapping[str, Any],
    display: Display,
    *,
    every: float,
) -> dict[str, Any]:
    """Make a job, follow it, return its resource when it has ended, however it did.

    Its files are asked for at most once in ``every`` seconds. Cancelling this
    cancels the job. Raises ``ServerRefused``, ``ServerUnreachable``.
    """
    job = await client.initiate(body)
    try:
        return await _follow(client, job, display, every)
    except asyncio.CancelledError:
        # It may have ended this very moment, or the server may be gone: so be it.
        with suppress(CommandError, TimeoutError):
            async with asyncio.timeout(_CANCEL_SECONDS):
                await client.cancel(job["jobId"])
        raise
    except ServerUnreachable as exc:
        where = f"{client.name.rstrip('/')}{job['statusUrl']}"
        raise ServerUnreachable(f"{exc.message} The job may go on without us: {where}") from exc


async def _follow(
    client: ApiClient,
    job: dict[str, Any],
    display: Display,
    every: float,
) -> dict[str, Any]:
    job_id = job["jobId"]
    due = 0.0
    async with aclosing(client.events(job_id)) as events:
        async for event in events:
            shown = job | dict(event.data)
            now = asyncio.get_running_loop().time()
            if now >= due:
                due = now + every
                # Without its files the job is shown all the same.
                with suppress(CommandError):
                    shown = await client.job(job_id)
            display.job(shown)
    return await _ended(client, job_id, display)


async def _ended(client: ApiClient, job_id: str, display: Display) -> dict[str, Any]:
    for tries_left in range(_READ_TRIES - 1, -1, -1):
        try:
            job = await client.job(job_id)
        except CommandError as exc:
            if not exc.transient or not tries_left:
                raise
            await asyncio.sleep(1)
        else:
            display.job(job)
            return job
    raise AssertionError("the last try returns or raises")
