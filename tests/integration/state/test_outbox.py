"""The outbox in a real Valkey: what a job's end puts there, and who takes it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from downloadd.errors import JobConflict
from downloadd.model import Job, JobStatus, terminal_event
from downloadd.ports import Attempt, Delivery, DeliveryStatus, Due
from downloadd.state.setup import State, open_state
from tests.integration.state.making import claimed, create, end, make_job
from tests.valkey import Valkey

URL = "https://ada:secret@app.example:8443/hook?key=1"
DAY = 24 * 3600
FAILED = Attempt(at=1.5, duration=0.25, status=500, error="It failed.")
TAKEN = Attempt(at=2.5, duration=0.5, status=200)


@pytest.fixture
async def brief(valkey: Valkey) -> AsyncIterator[State]:
    """A state that forgets ended jobs soon."""
    prefix = f"{{{uuid.uuid4().hex}}}:"
    async with open_state(
        valkey.url, prefix=prefix, failed_ttl=60, retry_window=60, secret=b"s" * 32
    ) as opened:
        yield opened


async def ended(
    state: State, status: JobStatus = JobStatus.COMPLETED, *, url: str | None = URL
) -> Job:
    """A job that has ended, its news in the outbox."""
    return await end(state, await claimed(state, make_job(callback_url=url)), status)


async def take(
    state: State,
    limit: int = 10,
    *,
    lease: float = 30.0,
    per_host: int = 10,
    busy: Mapping[str, int] | None = None,
) -> Due:
    return await state.outbox.claim(limit, lease=lease, per_host=per_host, busy=busy or {})


async def taken(state: State, **options: Any) -> Delivery:
    (delivery,) = (await take(state, **options)).deliveries
    return delivery


async def waiting(state: State) -> list[str]:
    """The jobs in the outbox."""
    members: list[str] = await state.client.execute("ZRANGE", state.keys.webhooks, 0, -1)
    return members


async def ttl(state: State, key: str) -> int:
    return int(await state.client.execute("TTL", key))


# --- what an end puts there ---------------------------------------------------


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_an_end_makes_one_message(state: State, status: str) -> None:
    """Its id is the job's, its type how the job ended; it is due at once."""
    if status == "cancelled":
        job = make_job(callback_url=URL)
        await create(state, job)
        await state.jobs.cancel(job.id, 1.0)
    else:
        job = await ended(state, JobStatus(status))
    delivery = await taken(state)
    assert (delivery.job_id, delivery.url, delivery.tries) == (job.id, URL, 0)
    assert delivery.type == f"download.{status}"
    assert delivery.host == "app.example:8443"
    assert delivery.message_id == f"msg_{job.id.replace('-', '')}_1"
    (message,) = await state.outbox.messages(job.id)
    assert (message.id, message.status) == (delivery.message_id, DeliveryStatus.PENDING)
    assert (await state.jobs.load(job.id)).callback_url == URL


async def test_an_end_that_nobody_wants_to_know(state: State) -> None:
    """Without a callback URL nothing is written."""
    job = await ended(state, url=None)
    assert await waiting(state) == []
    assert await state.outbox.messages(job.id) == []
    assert await state.client.execute("EXISTS", state.keys.deliveries(job.id)) == 0


@pytest.mark.parametrize("how", ["finish", "cancel"])
async def test_an_end_repeated_after_a_lost_answer_is_one_message(
    state: State, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The same write twice makes one message, and does not send it again."""
    claim = await claimed(state, make_job(callback_url=URL))
    monkeypatch.setattr(state.jobs, "_operation", lambda: "once")

    async def write() -> object:
        if how == "finish":
            return await end(state, claim)
        return await state.jobs.cancel(claim.job.id, 1.0)

    await write()
    await state.outbox.settle(await taken(state), TAKEN, DeliveryStatus.DELIVERED)
    await write()
    assert (await take(state)).deliveries == []
    assert len(await state.outbox.messages(claim.job.id)) == 1


async def test_writes_before_the_end_make_none(state: State) -> None:
    """Checkpoints and progress are no news for callbacks, nor are refused writes."""
    claim = await claimed(state, make_job(callback_url=URL))
    await state.jobs.save(claim.lease, claim.job, checkpoint="x")
    assert await waiting(state) == []
    await state.jobs.cancel(claim.job.id, 1.0)
    done = claim.job.moved(JobStatus.COMPLETED)
    with pytest.raises(Exception, match="cancelled"):
        await state.jobs.finish(claim.lease, done, terminal_event(done))
    (message,) = await state.outbox.messages(claim.job.id)
    assert message.type == "download.cancelled"


async def test_an_unreadable_job_is_told_too(state: State) -> None:
    """A job that this version cannot read fails with its news in the outbox."""
    job = make_job(callback_url=URL)
    await create(state, job)
    await state.client.execute("HSET", state.keys.job(job.id), "spec", "no JSON")
    assert await state.jobs.claim(1) == []
    assert (await taken(state)).type == "download.failed"


async def test_a_retry_withdraws_what_was_not_delivered(state: State) -> None:
    """The next end is another message; the attempt under way moves nothing any more."""
    job = await ended(state, JobStatus.FAILED)
    delivery = await taken(state)
    await state.jobs.retry(job.id, 9.0, queue_limit=9, body_window=60.0)
    assert await waiting(state) == []
    await state.outbox.settle(delivery, FAILED, DeliveryStatus.PENDING)
    assert await waiting(state) == []
    assert await ttl(state, state.keys.deliveries(job.id)) == -1
    (claim,) = await state.jobs.claim(1)
    await end(state, claim)
    first, second = await state.outbox.messages(job.id)
    assert (first.status, second.status) == (DeliveryStatus.SUPERSEDED, DeliveryStatus.PENDING)
    assert list(first.attempts) == [FAILED]
    assert second.id == delivery.message_id.removesuffix("1") + "2"
    assert await ttl(state, state.keys.deliveries(job.id)) > 0


async def test_many_ends_are_forgotten_in_turn(state: State) -> None:
    """A job that is retried without end keeps its last twenty messages."""
    job = await ended(state, JobStatus.FAILED)
    for _ in range(24):
        await state.outbox.settle(await taken(state), TAKEN, DeliveryStatus.DELIVERED)
        await state.jobs.retry(job.id, 9.0, queue_limit=9, body_window=60.0)
        (claim,) = await state.jobs.claim(1)
        await end(state, claim, JobStatus.FAILED)
    messages = await state.outbox.messages(job.id)
    assert [int(it.id.rpartition("_")[2]) for it in messages] == list(range(6, 26))
    fields = await state.client.execute("HKEYS", state.keys.deliveries(job.id))
    assert not any("_5:" in field for field in fields)


# --- who takes it ----------------------------------------------------------------


async def test_no_message_is_taken_twice(state: State) -> None:
    """Claims that run at once share what is due, each message to one."""
    for _ in range(30):
        await ended(state)
    dues = await asyncio.gather(*(take(state, 2, per_host=100) for _ in range(20)))
    ids = [delivery.message_id for due in dues for delivery in due.deliveries]
    assert len(ids) == len(set(ids)) == 30


async def test_a_claim_repeated_after_a_lost_answer_gives_the_same(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages are not stranded until their lease lapses."""
    for _ in range(3):
        await ended(state)
    monkeypatch.setattr(state.outbox, "_operation", lambda: "token")
    first, second = await take(state, 2), await take(state, 2)
    assert first.deliveries == second.deliveries
    assert len(first.deliveries) == 2


async def test_a_lease_that_lapses(state: State) -> None:
    """Another one takes the message, under the same id; the first one's note moves nothing."""
    job = await ended(state)
    old = await taken(state, lease=0.1)
    assert (await take(state)).deliveries == []
    await asyncio.sleep(0.15)
    new = await taken(state)
    assert new.message_id == old.message_id
    await state.outbox.settle(old, TAKEN, DeliveryStatus.DELIVERED)
    (message,) = await state.outbox.messages(job.id)
    assert (message.status, list(message.attempts)) == (DeliveryStatus.PENDING, [TAKEN])
    await state.outbox.settle(new, TAKEN.evolve(at=3.0), DeliveryStatus.DELIVERED)
    (message,) = await state.outbox.messages(job.id)
    assert message.status is DeliveryStatus.DELIVERED
    assert await waiting(state) == []


async def test_what_the_dead_were_sending(valkey: Valkey) -> None:
    """A start gives free what its dead took along; what lives or waits stays as it is."""
    prefix = f"{{{uuid.uuid4().hex}}}:"
    async with (
        open_state(valkey.url, prefix=prefix, owner="dead") as dead,
        open_state(valkey.url, prefix=prefix, owner="alive") as alive,
    ):
        waits = await ended(alive)
        await alive.outbox.settle(await taken(alive), FAILED, DeliveryStatus.PENDING, wait=60)
        await ended(alive)
        await taken(alive)
        job = await ended(alive)
        lost = await taken(dead)
        assert await alive.outbox.disown(["dead", "dad"]) == 1
        again = await taken(alive)
        assert (again.job_id, again.message_id) == (job.id, lost.message_id)
        assert await alive.outbox.disown(["dead"]) == 0
        (message,) = await alive.outbox.messages(waits.id)
        assert message.next_at is not None


async def test_one_host_is_bounded(state: State) -> None:
    """No more than allowed go to one host, those on their way included; others pass it."""
    for _ in range(4):
        await ended(state)
    other = await ended(state, url="http://other.example/hook")
    due = await take(state, per_host=3, busy={"app.example:8443": 2})
    assert [it.host for it in due.deliveries] == ["app.example:8443", "other.example"]
    assert due.deliveries[1].job_id == other.id
    assert (await take(state, per_host=3, busy={"app.example:8443": 3})).deliveries == []
    assert len((await take(state, per_host=3)).deliveries) == 3


async def test_a_crowd_for_one_host_hides_nobody(state: State) -> None:
    """However many wait for a host that is busy, what lies behind them is found."""
    crowd = [make_job(1, callback_url=URL) for _ in range(700)]
    for job in crowd:
        await create(state, job)
        await state.jobs.cancel(job.id, 1.0)
    other = await ended(state, url="http://other.example/hook")
    busy = {"app.example:8443": 1}
    first = await take(state, per_host=1, busy=busy)
    assert (first.deliveries, first.more) == ([], True)
    second = await take(state, per_host=1, busy=busy)
    assert [it.job_id for it in second.deliveries] == [other.id]
    assert len(await waiting(state)) == 701


async def test_news_of_jobs_that_are_gone(state: State) -> None:
    """They are dropped, and those behind them taken."""
    gone, there = await ended(state), await ended(state)
    await state.client.execute("DEL", state.keys.job(gone.id))
    due = await take(state)
    assert due.forgotten == [gone.id]
    assert [it.job_id for it in due.deliveries] == [there.id]
    assert await waiting(state) == [there.id]


# --- what becomes of it -------------------------------------------------------------


async def test_a_failed_try_is_due_again(state: State) -> None:
    """After its wait, not before; the claim says how long that is."""
    job = await ended(state)
    await state.outbox.settle(await taken(state), FAILED, DeliveryStatus.PENDING, wait=0.3)
    (message,) = await state.outbox.messages(job.id)
    assert message.next_at is not None
    due = await take(state)
    assert due.deliveries == []
    assert due.next_in is not None
    assert 0 < due.next_in <= 0.3
    await asyncio.sleep(due.next_in + 0.05)
    delivery = await taken(state)
    assert delivery.tries == 1
    (message,) = await state.outbox.messages(job.id)
    assert message.next_at is None


async def test_a_note_repeated_after_a_lost_answer_is_one(state: State) -> None:
    """The try is logged once and counted once."""
    job = await ended(state)
    delivery = await taken(state)
    for _ in range(2):
        await state.outbox.settle(delivery, FAILED, DeliveryStatus.PENDING)
    assert (await taken(state)).tries == 1
    (message,) = await state.outbox.messages(job.id)
    assert list(message.attempts) == [FAILED]


async def test_putting_back_is_no_try(state: State) -> None:
    """A message that was not sent is due again with its schedule where it was."""
    job = await ended(state)
    await state.outbox.put_back(await taken(state))
    assert (await taken(state)).tries == 0
    (message,) = await state.outbox.messages(job.id)
    assert list(message.attempts) == []


async def test_the_log_ends(state: State) -> None:
    """Of tries without end the last fifty are kept."""
    job = await ended(state)
    for number in range(60):
        attempt = FAILED.evolve(at=float(number))
        await state.outbox.settle(await taken(state), attempt, DeliveryStatus.PENDING)
    (message,) = await state.outbox.messages(job.id)
    assert [attempt.at for attempt in message.attempts] == [float(n) for n in range(10, 60)]


@pytest.mark.parametrize("status", ["delivered", "gone", "exhausted"])
async def test_what_has_ended_is_replayed(state: State, status: str) -> None:
    """It is due now, under its id, its schedule new; asking twice at once is one replay."""
    job = await ended(state)
    delivery = await taken(state)
    await state.outbox.settle(delivery, FAILED, DeliveryStatus(status))
    for _ in range(2):
        await state.outbox.replay(job.id)
    again = await taken(state)
    assert (again.message_id, again.tries) == (delivery.message_id, 0)
    assert again.token != delivery.token
    with pytest.raises(JobConflict, match="on its way"):
        await state.outbox.replay(job.id)


async def test_a_replay_repeated_after_a_lost_answer(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run is told of success, though the message is on its way by then."""
    job = await ended(state)
    await state.outbox.settle(await taken(state), TAKEN, DeliveryStatus.DELIVERED)
    with monkeypatch.context() as patch:
        patch.setattr(state.outbox, "_operation", lambda: "replay")
        await state.outbox.replay(job.id)
        patch.undo()
        await taken(state)
        patch.setattr(state.outbox, "_operation", lambda: "replay")
        await state.outbox.replay(job.id)
    assert (await take(state)).deliveries == []


async def test_a_job_outlives_its_news(brief: State) -> None:
    """Job and files are kept a day beyond the next try; what has no news goes in its time."""
    keys = brief.keys

    async def left(job: Job) -> list[int]:
        names = (keys.job(job.id), keys.files(job.id), keys.deliveries(job.id))
        return [await ttl(brief, name) for name in names]

    silent = await ended(brief, JobStatus.FAILED, url=None)
    assert max(await left(silent)) <= 60
    job = await ended(brief, JobStatus.FAILED)
    assert all(DAY - 60 < seconds <= DAY for seconds in await left(job))
    await brief.outbox.settle(await taken(brief), FAILED, DeliveryStatus.PENDING, wait=2 * DAY)
    assert all(3 * DAY - 60 < seconds <= 3 * DAY for seconds in await left(job))


async def test_names_and_addresses_of_any_kind(state: State) -> None:
    """A host is told from its URL, credentials or not; what is odd is delivered all the same."""
    hosts = {
        "http://app.example": "app.example",
        "http://app.example?x=1": "app.example",
        "https://a@b:c@app.example/": "app.example",
        "http://[2001:db8::1]:8080/x@y": "[2001:db8::1]:8080",
        "http://%zz/": "%zz",
    }
    for url, host in hosts.items():
        await ended(state, url=url)
        delivery = await taken(state)
        assert (delivery.url, delivery.host) == (url, host)


def test_the_url_stays_out_of_repr() -> None:
    """A callback URL, which may hold secrets, is in no traceback that shows a job."""
    assert "secret" not in repr(make_job(callback_url=URL))
