"""What becomes of a message after each kind of answer, and after trouble of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from downloadd.errors import JobNotFound, StateUnavailable, StorageUnavailable
from downloadd.jobs.deliverer import Deliverer
from downloadd.jobs.messages import Unreadable, Written
from downloadd.model import Job
from downloadd.ports import (
    Answer,
    Attempt,
    Caller,
    Delivery,
    DeliveryStatus,
    Due,
    Message,
    Outbox,
    SystemClock,
)
from downloadd.telemetry.metrics import Metrics

DELIVERY = Delivery(
    job_id="j",
    token="t",
    message_id="msg_j_1",
    type="download.completed",
    url="https://app.example/hook",
    host="app.example",
    tries=0,
)
JOB = Job(id="j", total_files=1, created_at=0.0, updated_at=0.0)
DAY = 24 * 3600
SCHEDULE = (100.0, 200.0)


class OneMessage(Outbox):
    """Holds one message; ``said`` is what was made of it."""

    def __init__(self, delivery: Delivery, *, failures: int = 0) -> None:
        self._due = [delivery]
        self._failures = failures
        self.said: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()

    def _fail(self) -> None:
        if self._failures > 0:
            self._failures -= 1
            raise StateUnavailable("Redis is away.")

    async def claim(
        self, limit: int, *, lease: float, per_host: int, busy: Mapping[str, int]
    ) -> Due:
        due, self._due = self._due, []
        return Due(deliveries=due)

    async def settle(
        self, delivery: Delivery, attempt: Attempt, status: DeliveryStatus, *, wait: float = 0.0
    ) -> None:
        self._fail()
        self.said.set_result((status, wait, attempt))

    async def put_back(self, delivery: Delivery, *, wait: float = 0.0) -> None:
        self._fail()
        self.said.set_result(("put back", wait))

    async def drop(self, delivery: Delivery) -> None:
        self._fail()
        self.said.set_result(("dropped",))

    async def disown(self, owners: Sequence[str]) -> int:
        raise AssertionError

    async def messages(self, job_id: str) -> Sequence[Message]:
        raise AssertionError

    async def replay(self, job_id: str) -> None:
        raise AssertionError


class Answering(Caller):
    def __init__(self, answer: Answer | Exception) -> None:
        self._answer = answer

    async def call(self, url: str, message_id: str, body: bytes) -> Answer:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def outcome(
    answer: Answer | Exception,
    *,
    tries: int = 0,
    trouble: Exception | None = None,
    failures: int = 0,
) -> tuple[Any, ...]:
    """What a deliverer makes of a message; ``trouble`` keeps its body from being written."""

    async def write(_: Delivery) -> Written:
        if trouble is not None:
            raise trouble
        return Written(job=JOB, body=b"{}")

    outbox = OneMessage(DELIVERY.evolve(tries=tries), failures=failures)
    async with (
        asyncio.timeout(10),
        Deliverer(
            outbox=outbox,
            caller=Answering(answer),
            write=write,
            clock=SystemClock(),
            metrics=Metrics(),
            timeout=5.0,
            schedule=SCHEDULE,
        ),
    ):
        return await outbox.said


FAILED = Answer(status=500, error="It failed.")


async def test_success_is_the_end() -> None:
    """What was taken is delivered, and nothing follows."""
    status, wait, attempt = await outcome(Answer(status=204))
    assert (status, wait) == (DeliveryStatus.DELIVERED, 0.0)
    assert (attempt.status, attempt.error) == (204, None)


@pytest.mark.parametrize(("tries", "wait"), [(0, 100.0), (1, 200.0)])
async def test_failures_follow_the_schedule(tries: int, wait: float) -> None:
    """Each wait in turn, give or take a tenth; never twice the same."""
    waits = {(await outcome(FAILED, tries=tries))[1] for _ in range(20)}
    assert len(waits) > 1
    assert all(0.9 * wait <= it <= 1.1 * wait for it in waits)


async def test_the_schedule_ends() -> None:
    """After its last wait a failure is the end."""
    assert (await outcome(FAILED, tries=2))[0] is DeliveryStatus.EXHAUSTED
    assert (await outcome(Answer(error="No answer."), tries=2))[0] is DeliveryStatus.EXHAUSTED


async def test_gone_is_the_end() -> None:
    assert (await outcome(Answer(status=410, error="Gone.")))[0] is DeliveryStatus.GONE


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [(0.0, 90, 110), (50.0, 90, 110), (1000.0, 1000, 1000), (1e9, DAY, DAY)],
)
async def test_retry_after(asked: float, low: float, high: float) -> None:
    """The receiver may ask for a longer wait, up to a day, and not for a shorter one."""
    status, wait, _ = await outcome(FAILED.evolve(retry_after=asked))
    assert status is DeliveryStatus.PENDING
    assert low <= wait <= high


@pytest.mark.parametrize("trouble", [StorageUnavailable("Away."), TimeoutError()])
async def test_trouble_of_ours_is_no_try(trouble: Exception) -> None:
    """A message that cannot be written for the moment is put back uncounted."""
    assert await outcome(FAILED, trouble=trouble) == ("put back", 5.0)


@pytest.mark.parametrize("trouble", [JobNotFound("Gone."), Unreadable("Unreadable.")])
async def test_what_can_never_be_written_is_dropped(trouble: Exception) -> None:
    assert await outcome(FAILED, trouble=trouble) == ("dropped",)


async def test_a_crash_counts_as_a_try() -> None:
    """A fault of the server's own does not make it try for ever, nor tells what it was."""
    status, wait, attempt = await outcome(RuntimeError("secret"))
    assert status is DeliveryStatus.PENDING
    assert wait > 0
    assert "secret" not in attempt.error
    assert (await outcome(FAILED, trouble=RuntimeError(), tries=2))[0] is DeliveryStatus.EXHAUSTED


async def test_the_note_is_made_when_redis_is_back() -> None:
    """A try is noted although Redis was away at first."""
    assert (await outcome(Answer(status=200), failures=3))[0] is DeliveryStatus.DELIVERED
