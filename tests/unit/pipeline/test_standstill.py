"""What takes its time on the way of a file is not taken for a standstill of the disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from downloadd.errors import SourceUnreachable
from downloadd.model import Source
from downloadd.pipeline import JobRun
from downloadd.pipeline.budget import Reservation
from downloadd.ports import ObjectMeta, PartBody, SourceBody, Stored
from tests.fakes import Answer
from tests.unit.pipeline.conftest import Bench, make_job
from tests.unit.pipeline.test_run import MIB, serve, sources

MakeBench = Callable[..., Bench]


async def test_a_slow_store_of_state_or_objects_is_no_standstill(make_bench: MakeBench) -> None:
    """Files under way do not go over the cap while a checkpoint or an upload's begin is awaited."""
    bench = make_bench(serve, disk=64 * MIB, per_job=4)
    begin = bench.store.begin

    async def slow(key: str, meta: ObjectMeta) -> str:
        await asyncio.sleep(0.5)
        return await begin(key, meta)

    bench.store.begin = slow  # type: ignore[method-assign]
    checkpoints, used = 0, []
    run = bench.run(make_job(sources(*(f"random/{24 * MIB}/{i}" for i in range(6)))))
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            used.append(bench.spool.disk.used)
            if step.checkpoint is not None and (checkpoints := checkpoints + 1) <= 4:
                await asyncio.sleep(0.5)
                used.append(bench.spool.disk.used)
    await run.close()
    assert max(used) <= 64 * MIB, f"{max(used) / MIB:.1f} MiB"
    assert bench.clean()


async def test_slow_news_of_progress_is_no_standstill(make_bench: MakeBench) -> None:
    """However long it takes to tell of progress, nobody goes over the cap meanwhile."""

    class Slow(Answer):
        async def chunks(self):  # type: ignore[no-untyped-def]
            bench.clock.time += 1  # the next turn tells of progress
            await asyncio.sleep(0.5)
            async for chunk in super().chunks():
                yield chunk

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        answer = serve(source, offset, validator)
        return Slow(data=answer.data, size=answer.size)

    bench = make_bench(script, disk=64 * MIB, per_job=4)
    used, told = [0], 0
    run = bench.run(make_job(sources(*(f"random/{24 * MIB}/{i}" for i in range(4)))))
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            told += step.checkpoint is None
            for _ in range(16):  # long enough for all that moves to come to rest
                await asyncio.sleep(0.05)
                used.append(bench.spool.disk.used)
    await run.close()
    assert told, "nothing but checkpoints was written"
    assert 48 * MIB <= max(used) <= 64 * MIB, f"{max(used) / MIB:.1f} MiB"
    assert bench.clean()


async def test_a_slow_answer_to_a_retry_is_no_standstill(make_bench: MakeBench) -> None:
    """What a file has already keeps its room while its source is asked for the rest."""

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        answer = serve(source, offset, validator)
        if "/1" in source.url and not offset:
            return Answer(
                data=answer.data[: 30 * MIB],
                size=answer.size,
                error=SourceUnreachable("It went away."),
            )
        return answer

    bench = make_bench(script, disk=64 * MIB, per_job=2)
    ask, used = bench.reader.open, [0]

    @asynccontextmanager
    async def slow(source: Source, **options: Any) -> AsyncIterator[SourceBody]:
        for _ in range(16 if options["offset"] else 0):
            await asyncio.sleep(0.05)
            used.append(bench.spool.disk.used)
        async with ask(source, **options) as body:
            yield body

    bench.reader.open = slow  # type: ignore[method-assign, assignment]
    await bench.finish(make_job(sources(f"random/{60 * MIB}/1", f"random/{50 * MIB}/2")))
    assert 0 < max(used) <= 64 * MIB, f"{max(used) / MIB:.1f} MiB"
    assert bench.clean()


async def test_a_slow_removal_is_no_standstill(make_bench: MakeBench) -> None:
    """Whoever waits for disk goes on waiting while bytes are being removed from it."""
    disk = (spool := make_bench(serve, disk=100).spool).disk

    async def reserve() -> Reservation:
        with disk.moving():
            return await disk.reserve(100)

    first, second = await reserve(), asyncio.create_task(reserve())
    await spool.run(time.sleep, 0.6)
    assert not second.done()
    first.release()
    (await asyncio.wait_for(second, 5)).release()


async def test_a_slow_put_is_no_standstill(make_bench: MakeBench) -> None:
    """A file waits for its room until the small archive that has it is stored."""
    bench = make_bench(serve, disk=10 * MIB)
    put, used = bench.store.put, []

    async def slow(key: str, body: PartBody, meta: ObjectMeta) -> Stored:
        await asyncio.sleep(0.5)
        used.append(bench.spool.disk.used)
        return await put(key, body, meta)

    async def work(run: JobRun) -> None:
        async with aclosing(run.steps()) as steps:
            async for _ in steps:
                pass
        await run.close()

    bench.store.put = slow  # type: ignore[method-assign]
    jobs = [make_job(sources(f"random/{8 * MIB}/{i}")) for i in range(2)]
    await asyncio.gather(*(work(bench.run(job)) for job in jobs))
    assert used == [8 * MIB, 8 * MIB]
    assert bench.clean()
