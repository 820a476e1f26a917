"""The same small jobs without a service: fetch, zip, store, by the libraries it is made of.

What a script does that checks nothing, survives nothing and tells nobody. It
says how fast the machine is at the moment, so that figures from two machines
can be held against each other.
"""

from __future__ import annotations

import asyncio
import io
import time
import zipfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import uvloop
from aiobotocore.session import get_session

from bench.small import JOBS, SETTINGS, urls_of
from tests.gateway import Gateway

WORKERS = int(SETTINGS["DOWNLOADD_JOBS_CONCURRENCY"])

Put = Callable[[str, bytes], Awaitable[object]]


def measure(origin: str, folder: Path, gateway: Gateway | None) -> float:
    """Jobs a second, into a folder or (with a gateway) into a bucket."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(origin, folder, gateway))


async def _run(origin: str, folder: Path, gateway: Gateway | None) -> float:
    async with AsyncExitStack() as stack:
        put = await _bucket(stack, gateway) if gateway else _into(folder)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        waiting = list(range(JOBS))
        begun = time.perf_counter()
        await asyncio.gather(*(_work(session, put, origin, waiting) for _ in range(WORKERS)))
        return JOBS / (time.perf_counter() - begun)


async def _work(session: aiohttp.ClientSession, put: Put, origin: str, waiting: list[int]) -> None:
    while waiting:
        number = waiting.pop()
        bodies = await asyncio.gather(*(_get(session, url) for url in urls_of(origin)))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for index, body in enumerate(bodies):
                archive.writestr(str(index), body)
        await put(f"bare-{number}.zip", packed.getvalue())


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as answer:
        return await answer.read()


def _into(folder: Path) -> Put:
    folder.mkdir()

    async def put(name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)

    return put


async def _bucket(stack: AsyncExitStack, gateway: Gateway) -> Put:
    client = await stack.enter_async_context(
        get_session().create_client(
            "s3",
            endpoint_url=gateway.endpoint,
            region_name=gateway.region,
            aws_access_key_id=gateway.access_key_id,
            aws_secret_access_key=gateway.secret_access_key,
        )
    )

    async def put(name: str, data: bytes) -> None:
        await client.put_object(Bucket="bench", Key=name, Body=data)

    return put
