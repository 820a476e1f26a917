"""Connections, disk and memory that all jobs share."""

import asyncio

import pytest

from downloadd.pipeline.budget import DiskBudget, FetchSlots, MemoryBudget, Reservation

MIB = 1 << 20


async def reserve(budget: DiskBudget, size: int) -> Reservation:
    with budget.moving():
        return await budget.reserve(size)


async def test_disk_holds_back_until_something_is_released() -> None:
    """A reservation over the cap waits for room, and gets it when there is some."""
    budget = DiskBudget(100)
    with budget.moving():
        first = await reserve(budget, 80)
        second = asyncio.create_task(reserve(budget, 40))
        await asyncio.sleep(0.3)
        assert not second.done()
        first.shrink(60)
        await asyncio.wait_for(second, 5)
        assert budget.used == 100


async def test_disk_lets_one_go_over_when_nothing_moves() -> None:
    """A file above the cap is not refused: it goes on alone, when all else is still."""
    budget = DiskBudget(100)
    first = await asyncio.wait_for(reserve(budget, 500), 5)
    assert budget.used == 50, "half of the cap is enough to begin with"
    second = await asyncio.wait_for(reserve(budget, 500), 5)
    with budget.moving():
        growing = asyncio.create_task(grow(budget, second, 500))
        await asyncio.sleep(0.3)
        assert not growing.done(), "while something moves, nobody goes over the cap"
    await asyncio.wait_for(growing, 5)
    assert budget.used == 550
    with budget.moving():
        await asyncio.wait_for(grow(budget, second, 600), 5)  # the one that is over may grow
        other = asyncio.create_task(grow(budget, first, 60))
        await asyncio.sleep(0.3)
        assert not other.done()
        second.release()
        await asyncio.wait_for(other, 5)
    first.release()
    assert budget.used == 0


async def test_disk_waits_for_no_trickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What moves and sets nothing free for long does not hold others up for ever."""
    monkeypatch.setattr("downloadd.pipeline.budget._PATIENCE", 0.5)
    budget = DiskBudget(100)
    with budget.moving():
        trickle, full = await reserve(budget, 10), await reserve(budget, 90)
        waiting = [asyncio.create_task(grow(budget, it, 120)) for it in (full, trickle)]
        await asyncio.sleep(0.3)
        full.shrink(85)  # there is hope again
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in waiting)
        await asyncio.wait_for(waiting[1], 5)
        await asyncio.sleep(0.8)
        await asyncio.wait_for(grow(budget, trickle, 130), 5)  # past the one that waits
        assert not waiting[0].done(), "one over the cap is enough"
        trickle.release()
        await asyncio.wait_for(waiting[0], 5)
        full.release()
    assert budget.used == 0


async def grow(budget: DiskBudget, reservation: Reservation, size: int) -> None:
    with budget.moving():
        await reservation.grow(size)


async def test_whoever_is_busy_without_end_hides_no_standstill() -> None:
    """Jobs that tell of their progress again and again keep nobody waiting for ever."""
    budget = DiskBudget(100)

    async def tell() -> None:
        while True:
            with budget.busy():
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.04)

    over = await reserve(budget, 90)
    telling = [asyncio.create_task(tell()) for _ in range(4)]
    await asyncio.wait_for(grow(budget, over, 120), 5)
    await asyncio.wait_for(reserve(budget, 30), 5)
    for task in telling:
        task.cancel()


async def test_what_comes_of_whoever_is_busy_is_waited_for() -> None:
    """Nothing is called still before those who are busy are through, in their next turn too."""
    budget = DiskBudget(100)
    first, second = await reserve(budget, 100), asyncio.create_task(reserve(budget, 100))
    with budget.busy():
        await asyncio.sleep(0.6)
    with budget.busy():
        await asyncio.sleep(0.6)
        assert not second.done()
        first.release()
    (await asyncio.wait_for(second, 5)).release()


async def test_growing_comes_before_beginning_and_the_oldest_first() -> None:
    """Files of unknown size that all wait are served one after the other, no two at once."""
    budget = DiskBudget(100)
    old, young = await reserve(budget, 50), await reserve(budget, 50)
    order: list[str] = []
    done = asyncio.Event()

    async def grow(name: str, reservation: Reservation) -> None:
        with budget.moving():
            for size in (80, 110):
                await reservation.grow(size)
                order.append(name)
                await asyncio.sleep(0.05)
            if name == "old":
                await done.wait()
        reservation.release()

    async def begin() -> None:
        (await reserve(budget, 60)).release()
        order.append("new")

    tasks = [asyncio.create_task(begin())]
    tasks += [asyncio.create_task(grow("young", young)), asyncio.create_task(grow("old", old))]
    await asyncio.sleep(0.8)
    assert order == ["old", "old"], "the young one does not grow while the old one moves"
    done.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert order == ["old", "old", "young", "young", "new"]
    assert budget.used == 0


async def test_a_cancelled_waiter_takes_nothing() -> None:
    """Cancelling a wait gives back what it had, and lets the next in line through."""
    budget = DiskBudget(100)
    with budget.moving():
        first = await reserve(budget, 100)
        waiting = asyncio.create_task(reserve(budget, 90))
        behind = asyncio.create_task(reserve(budget, 20))
        await asyncio.sleep(0)
        first.shrink(50)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        (await asyncio.wait_for(behind, 5)).release()
        first.release()
        assert budget.used == 0


async def test_a_waiter_cancelled_in_the_moment_of_its_grant_gives_it_back() -> None:
    """A grant that nobody takes is not lost."""
    budget = DiskBudget(100)
    with budget.moving():
        first = await reserve(budget, 100)
        waiting = asyncio.create_task(reserve(budget, 90))
        await asyncio.sleep(0)
        first.release()  # grants
        waiting.cancel()  # before the waiter runs
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert budget.used == 0


async def test_slots_bound_a_host_and_the_whole() -> None:
    """No more than the allowed requests are open, to one host and in all."""
    slots = FetchSlots(total=3, per_host=2)
    open_now: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0, "all": 0}

    async def fetch(host: str) -> None:
        async with slots.hold(host):
            open_now[host] += 1
            most[host] = max(most[host], open_now[host])
            most["all"] = max(most["all"], sum(open_now.values()))
            await asyncio.sleep(0.01)
            open_now[host] -= 1

    await asyncio.gather(*(fetch(host) for host in "ab" * 10))
    assert most == {"a": 2, "b": 2, "all": 3}
    assert not slots._hosts, "a host that nobody asks is forgotten"


def test_memory_is_given_once() -> None:
    """Memory that is taken is not there for another until it is given back."""
    memory = MemoryBudget(100)
    assert memory.take(60)
    assert not memory.take(41)
    memory.give_back(60)
    assert memory.take(100)
