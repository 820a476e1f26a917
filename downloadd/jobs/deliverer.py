"""Telling others of a job's end: messages out of the outbox, one POST after another (SPEC §5).

Every process does it. A message is taken under a lease and sent; the answer
decides what becomes of it. Whoever dies on the way lets the lease lapse, and
another one sends the message again, under the same id: at least once.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import structlog

from downloadd.errors import DownloaddError, JobNotFound, StateError
from downloadd.jobs.messages import Unreadable, WriteBody, Written
from downloadd.ports import Answer, Attempt, Caller, Clock, Delivery, DeliveryStatus, Outbox
from downloadd.tasks import stopped
from downloadd.telemetry.metrics import Metrics
from downloadd.telemetry.tracing import Attributes, Tracing, fail, ids

log = structlog.get_logger(__name__)

#: Messages on their way at once, and to one host: a slow one holds up itself alone.
_AT_ONCE, _PER_HOST = 16, 4
#: Seconds after which the outbox is looked at although nobody called.
_POLL = 1.0
#: Seconds for what comes before and after a try, while the message is ours.
_MARGIN = 15.0
#: Seconds after which a message that we could not even write is tried again.
_OWN_TROUBLE = 5.0
#: Seconds that attempts under way have at a shutdown, and then to give messages back.
_GRACE, _GIVING_BACK = 2.0, 1.0
#: Seconds between tries to note an attempt while Redis is away: from, to.
_AWAY = (0.1, 2.0)
#: The longest wait that a receiver may ask for, seconds.
_LONGEST_WAIT = 24 * 3600.0
#: By how much waits differ, so that messages that failed together do not come together.
_JITTER = 0.1

_GONE = 410


class Deliverer:
    """The messages that this process sends. An async context manager: leaving it stops.

    It hears of news through ``wake``; a message that is lost costs a second.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        caller: Caller,
        write: WriteBody,
        clock: Clock,
        metrics: Metrics,
        timeout: float,
        schedule: Sequence[float],
        dead_owners: Sequence[str] = (),
        tracing: Tracing | None = None,
    ) -> None:
        """``timeout`` is for one call, ``schedule`` the waits after failed ones; in seconds.

        What ``dead_owners`` were sending is sent at once.
        """
        self._outbox = outbox
        self._caller = caller
        self._write = write
        self._clock = clock
        self._metrics = metrics
        self._lease = timeout + _MARGIN
        self._schedule = tuple(schedule)
        self._dead_owners = tuple(dead_owners)
        self._tracing = tracing or Tracing()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._away = False
        self._on_way: dict[asyncio.Task[None], Delivery] = {}
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.create_task(self._claim_forever(), name="webhooks")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._wake.set()
        if self._loop is not None:
            # A claim that Redis keeps waiting is cut off; what it takes after all lapses.
            await asyncio.wait({self._loop, *self._on_way}, timeout=_GRACE)
            await stopped([self._loop])
        await self._give_back()

    def wake(self) -> None:
        """Look into the outbox now."""
        self._wake.set()

    async def _give_back(self) -> None:
        """Stop what is under way; others may send it at once."""
        left = dict(self._on_way)
        await stopped(left)
        with suppress(StateError, TimeoutError):  # the leases lapse
            async with asyncio.timeout(_GIVING_BACK):
                await asyncio.gather(*(self._outbox.put_back(it) for it in left.values()))

    # --- claiming ---

    async def _claim_forever(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            free = _AT_ONCE - len(self._on_way)
            pause = await self._claim(free) if free > 0 else _POLL
            if pause > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()

    async def _claim(self, limit: int) -> float:
        """Take what is due; return the seconds until the next look makes sense."""
        busy = Counter(delivery.host for delivery in self._on_way.values())
        try:
            await self._disown()
            due = await self._outbox.claim(limit, lease=self._lease, per_host=_PER_HOST, busy=busy)
        except StateError as exc:
            if not self._away:
                log.warning("webhook.state_away", error=exc.message)
            self._away = True
            return _POLL
        except Exception:
            # Whatever it is, the messages behind it are not to wait for a restart.
            log.exception("webhook.claim_failed")
            return _POLL
        self._away = False
        for job_id in due.forgotten:
            log.warning("webhook.undeliverable", jobId=job_id, reason="the job is gone")
            self._metrics.called_back(DeliveryStatus.UNDELIVERABLE)
        for delivery in due.deliveries:
            self._start(delivery)
        if due.deliveries or due.more:
            return 0.0
        return _POLL if due.next_in is None else min(_POLL, due.next_in)

    async def _disown(self) -> None:
        if self._dead_owners:
            await self._outbox.disown(self._dead_owners)
            self._dead_owners = ()

    def _start(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._deliver(delivery), name=f"webhook-{delivery.message_id}")
        self._on_way[task] = delivery
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._on_way[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("webhook.crashed", exc_info=error)

    # --- one message ---

    async def _deliver(self, delivery: Delivery) -> None:
        structlog.contextvars.bind_contextvars(jobId=delivery.job_id, webhookId=delivery.message_id)
        begun, started = self._clock.now(), self._clock.monotonic()
        answer = await self._try(delivery)
        if answer is None:
            return
        attempt = Attempt(
            at=round(begun, 3),
            duration=round(self._clock.monotonic() - started, 3),
            status=answer.status,
            error=answer.error,
        )
        status, wait = self._verdict(delivery, answer)
        self._tell(delivery, attempt, status, wait)
        await self._persist(lambda: self._outbox.settle(delivery, attempt, status, wait=wait))

    async def _try(self, delivery: Delivery) -> Answer | None:
        """Write the message and send it; None where it is not, by no fault of the receiver's."""
        try:
            async with asyncio.timeout(_MARGIN / 2):
                message = await self._write(delivery)
            return await self._call(delivery, message)
        except (JobNotFound, Unreadable) as exc:
            log.warning("webhook.undeliverable", reason=exc.message)
            self._metrics.called_back(DeliveryStatus.UNDELIVERABLE)
            await self._persist(lambda: self._outbox.drop(delivery))
        except (DownloaddError, TimeoutError) as exc:
            log.warning("webhook.not_written", error=str(exc) or "timed out")
            await self._persist(lambda: self._outbox.put_back(delivery, wait=_OWN_TROUBLE))
        except Exception:
            # Counted as a try, or it would be made for ever.
            log.exception("webhook.crashed")
            return Answer(error="The server failed while it sent the message.")
        return None

    async def _call(self, delivery: Delivery, message: Written) -> Answer:
        job = message.job
        structlog.contextvars.bind_contextvars(userId=job.user, traceId=job.trace_id)
        known: Attributes = {
            "webhook.id": delivery.message_id,
            "webhook.try": delivery.tries + 1,
            "server.address": delivery.host,
        }
        with self._tracing.call("webhook.deliver", known, after=job) as span:
            structlog.contextvars.bind_contextvars(**ids(span))
            answer = await self._caller.call(delivery.url, delivery.message_id, message.body)
            if answer.status is not None:
                span.set_attribute("http.response.status_code", answer.status)
            if answer.error is not None:
                fail(span, str(answer.status or "unreachable"), answer.error)
            return answer

    def _verdict(self, delivery: Delivery, answer: Answer) -> tuple[DeliveryStatus, float]:
        """What becomes of a message after this answer, and the seconds to the next try."""
        if answer.error is None:
            return DeliveryStatus.DELIVERED, 0.0
        if answer.status == _GONE:
            return DeliveryStatus.GONE, 0.0
        if delivery.tries >= len(self._schedule):
            return DeliveryStatus.EXHAUSTED, 0.0
        # Nothing is secured by it.
        jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
        wait = self._schedule[delivery.tries] * jitter
        asked = min(answer.retry_after or 0.0, _LONGEST_WAIT)
        return DeliveryStatus.PENDING, max(wait, asked)

    def _tell(
        self, delivery: Delivery, attempt: Attempt, status: DeliveryStatus, wait: float
    ) -> None:
        failed = status is DeliveryStatus.PENDING
        if delivery.tries:
            self._metrics.retried("webhook")
        self._metrics.called_back("failed" if failed else status)
        known: Mapping[str, Any] = {
            "type": delivery.type,
            "host": delivery.host,
            "try": delivery.tries + 1,
            "status": attempt.status,
            "seconds": attempt.duration,
        }
        if status is DeliveryStatus.DELIVERED:
            log.info("webhook.delivered", **known)
        elif failed:
            log.warning("webhook.failed", error=attempt.error, wait=round(wait, 3), **known)
        else:
            log.warning(f"webhook.{status}", error=attempt.error, **known)

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write, although Redis may be away, as long as the message is ours.

        Where that is not enough it is sent once more, as a lease that lapses has it.
        """
        pause, longest = _AWAY
        until = self._clock.monotonic() + self._lease
        while True:
            try:
                await write()
            except StateError as exc:
                if self._stopping.is_set() or self._clock.monotonic() > until:
                    log.warning("webhook.not_noted", error=exc.message)
                    return
            else:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(pause * 2, longest)
