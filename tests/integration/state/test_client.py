"""The shared connection, against a real Valkey that is killed, restarted and starved."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest

from downloadd.errors import StateError, StateUnavailable
from downloadd.model import JobStatus
from downloadd.state.client import BATCH, Client, Script, open_client
from downloadd.state.connection import Wire
from downloadd.state.setup import State, open_state
from tests.integration.state.making import claimed, create, end, make_job
from tests.valkey import Valkey, valkey_server


@pytest.fixture
async def client(own_valkey: Valkey) -> AsyncIterator[Client]:
    async with open_client(own_valkey.url, timeout=2) as opened:
        yield opened


def stat(valkey: Valkey, name: str) -> int:
    found = re.search(rf"{name}:(\d+)".encode(), valkey.call("INFO", "all"))
    assert found
    return int(found[1])


async def test_replies_go_to_their_callers(client: Client) -> None:
    """A thousand commands at once, each gets its own answer, errors included."""

    async def one(number: int) -> object:
        if number % 7 == 0:
            with pytest.raises(StateError):
                await client.execute("INCR", "text")
            return number
        return int(await client.execute("ECHO", number))

    await client.execute("SET", "text", "x")
    assert await asyncio.gather(*map(one, range(1000))) == list(range(1000))


async def test_commands_of_one_moment_go_in_one_write(client: Client, own_valkey: Valkey) -> None:
    """A hundred concurrent commands cost the server a few reads, on one connection."""
    await client.ping()
    connected = stat(own_valkey, "connected_clients")
    before = stat(own_valkey, "total_reads_processed")
    await asyncio.gather(*(client.ping() for _ in range(100)))
    assert stat(own_valkey, "total_reads_processed") - before < 20
    assert stat(own_valkey, "connected_clients") == connected


async def test_a_cancelled_waiter_leaves_the_others_in_step(client: Client) -> None:
    """Cancelled before or after its command is sent, nobody else gets its reply."""
    await client.ping()
    for turns in range(4):
        tasks = [asyncio.create_task(client.execute("ECHO", number)) for number in range(30)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        replies = await asyncio.gather(*tasks, return_exceptions=True)
        for number, reply in enumerate(replies):
            cancelled = isinstance(reply, asyncio.CancelledError) and number % 3 == 0
            assert cancelled or reply == str(number)
        assert await client.execute("ECHO", "after") == "after"


async def test_scripts_are_sent_again_to_a_server_that_forgot_them(client: Client) -> None:
    """SCRIPT FLUSH, as a restart, costs one more round trip and no error."""
    script = Script("probe", "return {KEYS[1], ARGV[1]}")
    for _ in range(2):
        replies = await asyncio.gather(*(client.run(script, ["k"], [n]) for n in range(50)))
        assert replies == [["k", str(n)] for n in range(50)]
        await client.execute("SCRIPT", "FLUSH")


async def test_a_killed_connection_is_made_again(client: Client, own_valkey: Valkey) -> None:
    """Commands that may be repeated succeed though the connection under them dies."""
    await client.ping()
    for _ in range(3):
        waiting = [asyncio.create_task(client.ping()) for _ in range(20)]
        own_valkey.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.gather(*waiting)


async def test_what_may_not_be_repeated_fails(client: Client, own_valkey: Valkey) -> None:
    """A lost answer to a command that is not repeatable is an error, and it ran at most once."""
    script = "redis.call('INCR', 'n'); while true do end"
    task = asyncio.create_task(client.execute("EVAL", script, 0))
    await asyncio.sleep(0.2)
    own_valkey.kill()
    with pytest.raises(StateUnavailable):
        await task
    own_valkey.start()
    assert await client.execute("GET", "n", repeatable=True) is None


async def test_a_server_that_is_away(own_state: State, own_valkey: Valkey) -> None:
    """Calls fail soon and as transient; when it is back they work, and nothing is lost."""
    job = make_job()
    await create(own_state, job)
    own_valkey.kill()
    async with asyncio.timeout(5):
        for call in (own_state.check(), own_state.jobs.load(job.id), own_state.jobs.claim(1)):
            with pytest.raises(StateUnavailable) as caught:
                await call
            assert caught.value.transient
            assert caught.value.__cause__ is not None
    own_valkey.start()
    assert (await own_state.jobs.load(job.id)).queue_position == 1


async def test_every_method_survives_a_restart(own_state: State, own_valkey: Valkey) -> None:
    """A server killed and started between calls costs at most a reconnection."""

    def restart() -> None:
        own_valkey.kill()
        own_valkey.start()

    job = make_job()
    await create(own_state, job)
    restart()
    (claim,) = await own_state.jobs.claim(1)
    restart()
    await own_state.jobs.save(claim.lease, claim.job, checkpoint="x")
    restart()
    assert await own_state.jobs.renew([claim.lease]) == []
    restart()
    await end(own_state, claim)
    restart()
    assert (await own_state.jobs.load(job.id)).status is JobStatus.COMPLETED


async def test_a_server_that_hangs_is_given_up(own_valkey: Valkey) -> None:
    """No answer within the time-out is an error, and the next command has its own answer."""
    async with open_client(own_valkey.url, timeout=0.3) as client:
        await client.ping()
        own_valkey.call("CLIENT", "PAUSE", "1000", "ALL")
        async with asyncio.timeout(3):
            with pytest.raises(StateUnavailable, match="time"):
                await client.execute("ECHO", "lost", repeatable=True)
        await asyncio.sleep(1)
        assert await client.execute("ECHO", "mine") == "mine"


async def test_who_comes_while_a_server_hangs_waits_no_longer(own_valkey: Valkey) -> None:
    """A time-out is the answer for those too who asked while it ran; nobody waits for another."""
    async with open_client(own_valkey.url, timeout=1) as client:
        await client.ping()
        own_valkey.call("CLIENT", "PAUSE", "6000", "ALL")
        begun = asyncio.get_running_loop().time()
        first = asyncio.create_task(client.ping())
        await asyncio.sleep(0.5)
        late = [asyncio.create_task(client.ping()) for _ in range(300)]
        answers = await asyncio.gather(first, *late, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StateUnavailable}
        assert asyncio.get_running_loop().time() - begun < 1.8


async def test_a_crowd_does_not_hold_others_up(client: Client) -> None:
    """Commands go in rounds of a bounded size, in the order in which they came."""
    order: list[int] = []

    async def one(number: int) -> None:
        await client.execute("ECHO", str(number))
        order.append(number)

    sizes: list[int] = []
    exchange = client._exchange

    async def counted(wire: Wire, batch: deque[Any]) -> None:
        sizes.append(len(batch))
        await exchange(wire, batch)

    client._exchange = counted  # type: ignore[method-assign]
    await asyncio.gather(*map(one, range(500)))
    assert max(sizes) == BATCH
    assert sum(sizes) == 500
    assert order == sorted(order)


async def test_an_end_with_commands_under_way(own_valkey: Valkey) -> None:
    """Closing the client fails whoever waits, and whoever comes later."""
    async with open_client(own_valkey.url) as client:
        await client.ping()
        own_valkey.call("CLIENT", "PAUSE", "500", "ALL")
        tasks = [asyncio.create_task(client.ping()) for _ in range(3)]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(client.ping()))
        await asyncio.sleep(0)
    for task in tasks:
        with pytest.raises(StateUnavailable):
            await task
    with pytest.raises(StateUnavailable):
        await client.ping()


async def test_a_full_server_is_unavailable(own_state: State, own_valkey: Valkey) -> None:
    """Out of memory is transient, nothing is half written, and reads go on."""
    claim = await claimed(own_state)
    own_valkey.call("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StateUnavailable, match="memory"):
        await create(own_state)
    with pytest.raises(StateUnavailable, match="memory"):
        await own_state.jobs.save(claim.lease, claim.job, checkpoint="x")
    assert (await own_state.jobs.load(claim.job.id)).status is JobStatus.PROCESSING
    own_valkey.call("CONFIG", "SET", "maxmemory", "0")
    await own_state.jobs.save(claim.lease, claim.job, checkpoint="x")


async def test_a_replica_is_unavailable(own_state: State, own_valkey: Valkey) -> None:
    """A server that became read-only (a failover) is a transient error."""
    await own_state.check()
    own_valkey.call("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StateUnavailable):
        await create(own_state)
    own_valkey.call("REPLICAOF", "NO", "ONE")
    await create(own_state)


async def test_wrong_credentials_are_no_outage() -> None:
    """A refused login is not transient, and no message repeats the password."""
    with valkey_server(tcp=True, args=("--requirepass", "right")) as server:
        for user, ok in ((":right@", True), (":wr0ng@", False), ("", False)):
            url = server.url.replace("://", f"://{user}") + "/1"
            async with open_client(url) as client:
                if ok:
                    await client.ping()
                    continue
                with pytest.raises(StateError) as caught:
                    await client.ping()
                assert not caught.value.transient
                assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://x", "redis://h?nonsense=1", "redis://h:port", ""])
async def test_a_url_that_cannot_be_used(url: str) -> None:
    """The first command says which setting is wrong."""
    async with open_client(url) as client:
        with pytest.raises(StateError, match=r"state\.redis_url") as caught:
            await client.ping()
        assert not caught.value.transient


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_waiting_for_the_disk(fsync: str) -> None:
    """With ``wait_for_fsync`` jobs created together are on disk together when that is said."""
    args = ("--appendonly", "yes", "--appendfsync", fsync)
    with valkey_server(args=args) as server:
        async with open_state(server.url, wait_for_fsync=True) as state:
            async with asyncio.timeout(8):
                await asyncio.gather(*(create(state) for _ in range(30)))
            server.kill()
            server.start()
            assert await state.jobs.queue_depth() == 30


async def test_waiting_for_a_disk_that_is_not_used(valkey: Valkey) -> None:
    """A server without an append-only file cannot promise, and says so at once."""
    async with open_state(valkey.url, prefix="{nodisk}:", wait_for_fsync=True) as state:
        with pytest.raises(StateError, match="appendonly") as caught:
            await create(state)
        assert not caught.value.transient


async def test_a_server_that_cannot_wait_for_its_disk() -> None:
    """Where WAITAOF is missing, jobs are acknowledged as the server writes them."""
    with valkey_server(args=("--rename-command", "WAITAOF", "")) as server:
        async with open_state(server.url, wait_for_fsync=True) as state:
            await create(state)
            await create(state)
            assert await state.jobs.queue_depth() == 2
