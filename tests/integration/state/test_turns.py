"""The queue between users: they take turns within a priority, and each keeps its order."""

from __future__ import annotations

import random

import pytest

from downloadd.model import Job, JobStatus, Priority
from downloadd.state.setup import State
from tests.integration.state.making import create, end, make_job
from tests.integration.state.turns import Turns


async def queued(state: State, user: str, count: int, **fields: object) -> list[str]:
    jobs: list[Job] = [make_job(1, user=user, **fields) for _ in range(count)]  # type: ignore[arg-type]
    for job in jobs:
        await create(state, job)
    return [job.id for job in jobs]


async def taken(state: State, limit: int) -> list[str]:
    return [claim.job.id for claim in await state.jobs.claim(limit)]


async def waiting(state: State) -> list[str]:
    """The queue as it stands."""
    return list(await state.client.execute("ZRANGE", state.keys.queue, 0, -1))


async def turns_kept(state: State) -> dict[str, str]:
    flat = await state.client.execute("HGETALL", state.keys.turns)
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def test_one_user_is_served_in_order(state: State) -> None:
    """Alone, a user's jobs come in the order in which they were made."""
    ids = await queued(state, "a", 20)
    assert await taken(state, 20) == ids
    assert await turns_kept(state) == {}


async def test_a_crowd_starves_nobody(state: State) -> None:
    """Behind a thousand jobs of one user, another's one is the next but one at most."""
    crowd = await queued(state, "a", 1000)
    first = await taken(state, 3)
    (one,) = await queued(state, "b", 1)
    assert (await state.jobs.load(one)).queue_position == 1
    assert first + await taken(state, 2) == [*crowd[:3], one, crowd[3]]


async def test_users_take_turns(state: State) -> None:
    """Three users with jobs enough come one after the other, each in its own order."""
    ids = {user: await queued(state, user, 5) for user in "abc"}
    rounds = [[ids[user][place] for user in "abc"] for place in range(5)]
    assert await taken(state, 15) == [job for turn in rounds for job in turn]


async def test_nobody_saves_up(state: State) -> None:
    """Who had nothing to do gets no credit for it: the others are not made to wait."""
    a = await queued(state, "a", 10)
    assert await taken(state, 5) == a[:5]
    b = await queued(state, "b", 5)
    assert await taken(state, 4) == [b[0], a[5], b[1], a[6]]


async def test_priority_goes_first(state: State) -> None:
    """Between priorities there are no turns: high, normal, low."""
    low = await queued(state, "a", 2, priority=Priority.LOW)
    normal = await queued(state, "b", 2)
    high = await queued(state, "a", 2, priority=Priority.HIGH)
    assert await taken(state, 6) == [*high, *normal, *low]


@pytest.mark.parametrize("order", [1, -1], ids=["first-made", "last-made"])
async def test_cancelled_jobs_cost_no_turn(state: State, order: int) -> None:
    """Who cancels what waits is served as if it had not been made."""
    a = await queued(state, "a", 3)
    b = await queued(state, "b", 20)
    for job_id in b[::order]:
        await state.jobs.cancel(job_id, 1.0)
    (again,) = await queued(state, "b", 1)
    assert await taken(state, 4) == [a[0], again, a[1], a[2]]


async def test_a_retried_job_takes_a_turn(state: State) -> None:
    """What is queued once more waits as a new job of its user's would."""
    (failed,) = await queued(state, "b", 1)
    (claim,) = await state.jobs.claim(1)
    await end(state, claim, JobStatus.FAILED)
    a = await queued(state, "a", 3)
    await state.jobs.retry(failed, 2.0, queue_limit=100, body_window=0)
    assert await taken(state, 4) == [a[0], failed, a[1], a[2]]


async def test_a_queue_of_an_earlier_version(state: State) -> None:
    """Jobs that were queued without turns are taken before new ones, none is lost."""
    ids = await queued(state, "a", 3)
    for place, job_id in enumerate(ids):
        await state.client.execute("ZADD", state.keys.queue, 2**48 + place, job_id)
    await state.client.execute("DEL", state.keys.turns)
    new = await queued(state, "b", 2)
    assert await taken(state, 5) == [*ids, *new]
    assert await turns_kept(state) == {}


@pytest.mark.parametrize("seed", range(8))
async def test_turns_are_as_the_model_has_them(state: State, seed: int) -> None:
    """Whatever users make, cancel and are served: order, positions, and nothing left behind."""
    chance, model = random.Random(seed), Turns()
    for _ in range(150):
        match chance.choice(["make", "make", "make", "take", "cancel"]):
            case "make":
                user = chance.choice("aaaabbc")
                (job_id,) = await queued(state, user, 1)
                model.put(user, job_id)
            case "take" if model.order:
                assert await taken(state, 1) == [model.take()]
            case "cancel" if model.order:
                job_id = chance.choice(model.order)
                await state.jobs.cancel(job_id, 1.0)
                model.leave(job_id)
        assert await waiting(state) == model.order
        if model.order:
            position = chance.randrange(len(model.order))
            job = await state.jobs.load(model.order[position])
            assert job.queue_position == position + 1
    while model.order:
        assert await taken(state, 1) == [model.take()]
    assert await turns_kept(state) == {}
