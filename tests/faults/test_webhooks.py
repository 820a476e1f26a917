"""Callbacks of a server that is killed, or whose Redis goes away: one message, at least once."""

from __future__ import annotations

import asyncio
import re
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import LocalStorage, Service, eventually
from tests.faults.fleet import Fleet, initiate
from tests.faults.trap import Trap, TrapProxy, When
from tests.origin import Origin
from tests.receiver import SECRET, Receiver
from tests.valkey import Valkey, valkey_server

#: What goes to Redis at a job's end, when a message is noted as delivered, and when a
#: job is cancelled.
TERMINAL, NOTED = rb"\$9\r\ncompleted\r\n", rb"\$9\r\ndelivered\r\n"
CANCELLING = rb"queued processing\r\n"

CALLING = {
    "DOWNLOADD_WEBHOOKS_SECRET": SECRET,
    "DOWNLOADD_WEBHOOKS_SCHEDULE": "0.2,0.5,1,2,5,5",
    "DOWNLOADD_WEBHOOKS_TIMEOUT": "5",
    "DOWNLOADD_JOBS_LEASE": "2",
}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with valkey_server(tcp=True, durable=True) as server:
        yield server


def body(origin: Origin, callback_url: str, tag: str = "", **query: object) -> dict[str, Any]:
    return {
        "source_urls": [origin.url(1, 1000, tag=tag, **query)],
        "callback_url": callback_url,
        "options": {"dedupe": False},
    }


async def deliveries(server: Service, job_id: str) -> list[dict[str, Any]]:
    async with server.client.get(f"/v1/download/{job_id}/deliveries") as response:
        assert response.status == 200, await response.text()
        return list((await response.json())["deliveries"])


async def delivered(server: Service, job_id: str, *, seconds: float = 20) -> dict[str, Any]:
    """Wait until the only message of a job is delivered."""

    async def done() -> dict[str, Any] | None:
        found = await deliveries(server, job_id)
        return found[0] if [it["status"] for it in found] == ["delivered"] else None

    message: dict[str, Any] = await eventually(done, seconds=seconds, what="the job is told of")
    return message


async def warm_up(server: Service, origin: Origin, receiver: Receiver) -> None:
    """Have Redis know every script: a trap is to catch no answer that it does not."""
    for delay in (0, 30):
        url = receiver.url("200", "warm")
        job_id = await server.initiate(body(origin, url, "warm", delay=delay))
        if delay:
            assert await server.cancel(job_id) == 200
        await delivered(server, job_id)


# --- kills ----------------------------------------------------------------------


async def test_killed_at_every_step(folder: Path, valkey: Valkey, origin: Origin) -> None:
    """Killed at the write of an end, or of a delivery: one message, told at least once."""
    async with asyncio.TaskGroup() as cases:
        for step in (TERMINAL, NOTED):
            for when in When:
                cases.create_task(killed_at_the_end(folder, valkey, origin, step, when))
        cases.create_task(killed_at_a_cancellation(folder, valkey, origin))


@asynccontextmanager
async def case(
    folder: Path, valkey: Valkey, origin: Origin, name: str
) -> AsyncIterator[tuple[Service, TrapProxy, Receiver]]:
    place = folder / name
    place.mkdir()
    async with TrapProxy(valkey.port) as redis, Receiver() as receiver:
        environ = {
            "REDIS_URL": f"redis://127.0.0.1:{redis.port}",
            "DOWNLOADD_STATE_PREFIX": f"{{{name}}}:",
            **CALLING,
        }
        async with Service(place / "data", environ) as server:
            await warm_up(server, origin, receiver)
            yield server, redis, receiver


async def killed_at_the_end(
    folder: Path, valkey: Valkey, origin: Origin, step: bytes, when: When
) -> None:
    name = f"{'end' if step == TERMINAL else 'note'}-{when.name}"
    async with case(folder, valkey, origin, name) as (server, redis, receiver):
        redis.trap = trap = Trap(pattern=re.compile(step), when=when, spring=server.kill)
        job_id = await server.initiate(body(origin, receiver.url("200", "it"), name))
        await eventually(lambda: trap.sprung, what="the step was taken")
        await server.exited()
        told = len(receiver.calls("it"))
        assert told == (1 if step == NOTED else 0), name
        await server.start()
        message = await delivered(server, job_id)
        # What was noted is told no more; what was not, once more.
        again = (step, when) != (NOTED, When.AFTER)
        calls = receiver.calls("it")
        assert len(calls) == told + again, name
        assert {call.id for call in calls} == {message["id"]}, name
        assert calls[-1].message["type"] == "download.completed"


async def killed_at_a_cancellation(folder: Path, valkey: Valkey, origin: Origin) -> None:
    """It is told of although its caller got no answer."""
    async with case(folder, valkey, origin, "cancel") as (server, redis, receiver):
        job_id = await server.initiate(body(origin, receiver.url(), "cancel", delay=30))
        redis.trap = trap = Trap(
            pattern=re.compile(CANCELLING), when=When.AFTER, spring=server.kill
        )
        cancelling = asyncio.create_task(server.cancel(job_id))
        await eventually(lambda: trap.sprung, what="the job is cancelled")
        await server.exited()
        await asyncio.gather(cancelling, return_exceptions=True)
        await server.start()
        assert (await delivered(server, job_id))["type"] == "download.cancelled"


async def test_killed_between_tries(folder: Path, origin: Origin, receiver: Receiver) -> None:
    """The next start goes on with the schedule, under the same id; the secret is kept with it."""
    environ = {**CALLING, "DOWNLOADD_WEBHOOKS_SCHEDULE": "1,1"}
    del environ["DOWNLOADD_WEBHOOKS_SECRET"]
    async with Service(folder / "data", environ) as server:
        path = server.data_dir / "webhooks.secret"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with Receiver(path.read_text().strip()) as own:
            job_id = await server.initiate(body(origin, own.url("500,slow,200")))
            await own.called(1)
            await eventually(lambda: _waits(server, job_id), what="the try is noted")
            await server.kill()
            await server.start()
            # Killed in the middle of a try, too.
            await own.called(2)
            await server.kill()
            await server.start()
            message = await delivered(server, job_id)
            assert [call.id for call in own.calls()] == [message["id"]] * 3
            assert [it["status"] for it in message["attempts"]] == [500, 200]
    assert SECRET not in server.log.read_text()


async def _waits(server: Service, job_id: str) -> bool:
    return "nextAttemptAt" in (await deliveries(server, job_id))[0]


async def test_a_stop_lets_others_go_on(
    folder: Path, valkey: Valkey, origin: Origin, receiver: Receiver
) -> None:
    """A server that is told to stop while it calls gives the message to another at once."""
    environ = {"REDIS_URL": valkey.url, **CALLING, "DOWNLOADD_WEBHOOKS_TIMEOUT": "60"}
    async with AsyncExitStack() as stack:
        places = [folder / name for name in ("a", "b")]
        for place in places:
            place.mkdir()
        first = await stack.enter_async_context(Service(places[0] / "data", environ))
        job_id = await first.initiate(body(origin, receiver.url("slow,200")))
        await receiver.called(1)
        second = await stack.enter_async_context(Service(places[1] / "data", environ))
        assert await first.stop() == 0
        message = await delivered(second, job_id)
        assert [call.id for call in receiver.calls()] == [message["id"]] * 2


# --- Redis ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_redis_is_away_at_the_note(
    folder: Path, valkey: Valkey, origin: Origin, receiver: Receiver, how: str
) -> None:
    """What was taken while Redis was away is noted when it is back, and not sent again."""
    environ = {"REDIS_URL": valkey.url, **CALLING, "DOWNLOADD_WEBHOOKS_TIMEOUT": "30"}
    async with Service(folder / "data", environ) as server:
        job_id = await server.initiate(body(origin, receiver.url("hold")))
        await receiver.called(1)
        valkey.kill() if how == "killed" else valkey.pause()
        receiver.release.set()
        await asyncio.sleep(1.5)
        assert server.process.poll() is None
        await asyncio.to_thread(valkey.start if how == "killed" else valkey.resume)
        message = await delivered(server, job_id)
        assert len(message["attempts"]) == len(receiver.calls()) == 1
        # Another one is told as ever.
        other = await server.initiate(body(origin, receiver.url("200", "other"), "other"))
        await delivered(server, other)
        # Said once, and not at all where nobody had to wait too long.
        said = server.log.read_text().count("webhook.state_away")
        assert said == (1 if how == "killed" else 0)


# --- several processes -----------------------------------------------------------------


async def test_three_processes_tell_each_job_once(
    folder: Path, valkey: Valkey, origin: Origin, receiver: Receiver
) -> None:
    """Of 300 jobs each is told of under one id, by whichever process, and once while none dies."""
    settings = {name.removeprefix("DOWNLOADD_").lower(): value for name, value in CALLING.items()}
    async with Fleet(folder, valkey, LocalStorage(folder), fetch_per_host=32, **settings) as fleet:
        for _ in range(3):
            await fleet.start()
        jobs = []
        for number in range(300):
            server = fleet.living[number % 3]
            jobs.append(
                await initiate(
                    fleet,
                    lambda _, it=server: it,
                    f"job-{number}",
                    body(origin, receiver.url("200", f"{number}"), f"{number}"),
                )
            )
        calls = await receiver.called(300, seconds=60)
        await eventually(lambda: _empty(valkey), what="every message is noted")
        assert len(receiver.calls()) == 300
        told = {call.message["data"]["jobId"]: call.id for call in calls}
        assert set(told) == set(jobs)
        assert len(set(told.values())) == 300


def _empty(valkey: Valkey) -> bool:
    return valkey.call("ZCARD", "{downloadd}:webhooks") == b":0\r\n"
