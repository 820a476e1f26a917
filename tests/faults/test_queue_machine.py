"""The queue and the leases against a model: no job lost, none doubled, every position right.

Hypothesis thinks up what several processes do to one real Valkey, in any order:
they make, claim, save, end, release and cancel jobs, their leases lapse, they
die, and those who were thought dead go on writing. A model in Python says what
each call must answer, and after each step Valkey is compared with it.

To add a move: a ``@rule`` that makes the call, and says in ``Known`` what it
changes; ``expected`` says which jobs a claim must get, in order.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from downloadd.errors import JobCancelled, JobConflict, LeaseLost
from downloadd.model import JobStatus, Priority, progress_event
from downloadd.ports import Claim, Deduplication, Lease
from downloadd.state.setup import State, open_state
from tests.integration.state.making import end, make_job
from tests.valkey import Valkey, valkey_server

PROCESSES = 3
RANK = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}
#: No lease lapses by itself while a test runs: only when a step says so.
LEASE = 3600.0
ENDS = {
    JobStatus.COMPLETED: "complete",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
}


@dataclass
class Known:
    """What the model knows of a job."""

    job_id: str
    #: Its place in the queue, in comparison.
    order: tuple[int, int]
    status: JobStatus = JobStatus.QUEUED
    #: Who may write; None: nobody until the next claim.
    holder: Lease | None = None
    #: When the lease ends, where that is in the past: an order among such.
    lapsed: int | None = None
    attempts: int = 0
    checkpoint: str | None = None
    #: Types of all events.
    events: list[str] = field(default_factory=lambda: ["status"])

    def end(self, status: JobStatus) -> None:
        self.status, self.holder, self.lapsed = status, None, None
        self.events.append(ENDS[status])


class QueueMachine(RuleBasedStateMachine):
    """Several processes on one Valkey."""

    claims = Bundle("claims")
    processes = st.integers(0, PROCESSES - 1)

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._prefix = f"{{{uuid.uuid4().hex}}}:"
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._states: list[State] = []
        self.known: dict[str, Known] = {}
        self._moments = 0

    @initialize()
    def begin(self) -> None:
        self._states = [self._process() for _ in range(PROCESSES)]

    def teardown(self) -> None:
        self._run(self._stack.aclose())
        self._runner.close()

    def _process(self) -> State:
        opening = open_state(self._url, prefix=self._prefix, lease=LEASE)
        return self._run(self._stack.enter_async_context(opening))

    def _run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(call)

    def _moment(self) -> int:
        """A moment in the past, later than all before."""
        self._moments += 1
        return self._moments

    # --- the model's answers ---

    def queue(self) -> list[str]:
        waiting = [it for it in self.known.values() if it.status is JobStatus.QUEUED]
        return [it.job_id for it in sorted(waiting, key=lambda it: it.order)]

    def processing(self) -> list[Known]:
        return [it for it in self.known.values() if it.status is JobStatus.PROCESSING]

    def expected(self, limit: int) -> list[str]:
        """The jobs that a claim gets: lapsed ones by the time they lapsed, then the queue."""
        lapsed = [it for it in self.processing() if it.lapsed is not None]
        lapsed.sort(key=lambda it: (it.lapsed, it.job_id))
        return [*(it.job_id for it in lapsed), *self.queue()][:limit]

    # --- what processes do ---

    @rule(process=processes, priority=st.sampled_from(Priority))
    def create(self, process: int, priority: Priority) -> None:
        job = make_job(1, priority=priority)
        jobs = self._states[process].jobs
        created = self._run(jobs.create(job, Deduplication(), queue_limit=1000))
        self.known[job.id] = Known(job.id, order=(RANK[priority], self._moment()))
        assert created.queue_position == self.queue().index(job.id) + 1

    @rule(target=claims, process=processes, limit=st.integers(1, 3))
    def claim(self, process: int, limit: int) -> Any:
        claims: list[Claim] = self._run(self._states[process].jobs.claim(limit))
        assert [it.job.id for it in claims] == self.expected(limit)
        for it in claims:
            known = self.known[it.job.id]
            known.status, known.holder, known.lapsed = JobStatus.PROCESSING, it.lease, None
            known.attempts += 1
            known.events.append("progress")
            assert it.checkpoint == known.checkpoint
            assert (it.job.status, it.job.attempts) == (known.status, known.attempts)
        return claims

    @rule(process=processes, claims=claims, checkpoint=st.none() | st.text(max_size=3))
    def save(self, process: int, claims: list[Claim], checkpoint: str | None) -> None:
        for it in claims:
            event = progress_event(it.job)
            call = self._states[process].jobs.save(
                it.lease, it.job, event=event, checkpoint=checkpoint
            )
            if self._accepted(it, call):
                known = self.known[it.job.id]
                known.events.append("progress")
                if checkpoint is not None:
                    known.checkpoint = checkpoint

    @rule(
        process=processes,
        claims=claims,
        status=st.sampled_from([JobStatus.COMPLETED, JobStatus.FAILED]),
    )
    def finish(self, process: int, claims: list[Claim], status: JobStatus) -> None:
        for it in claims:
            if self._accepted(it, end(self._states[process], it, status)):
                self.known[it.job.id].end(status)

    def _accepted(self, claim: Claim, call: Coroutine[Any, Any, Any]) -> bool:
        """Whether a write was accepted, which only the one holder's is."""
        known = self.known[claim.job.id]
        if known.holder == claim.lease:
            self._run(call)
            return True
        cancelled = known.status is JobStatus.CANCELLED
        with pytest.raises(JobCancelled if cancelled else LeaseLost):
            self._run(call)
        return False

    @rule(process=processes, claims=claims)
    def release(self, process: int, claims: list[Claim]) -> None:
        for it in claims:
            self._run(self._states[process].jobs.release(it.lease))
            known = self.known[it.job.id]
            if known.holder == it.lease:
                known.holder, known.lapsed = None, 0

    @rule(process=processes, claims=claims)
    def renew(self, process: int, claims: list[Claim]) -> None:
        """A lease that has lapsed can be renewed as long as nobody has taken the job."""
        leases = [it.lease for it in claims]
        lost = self._run(self._states[process].jobs.renew(leases))
        held = [lease for lease in leases if self.known[lease.job_id].holder == lease]
        assert lost == [lease for lease in leases if lease not in held]
        for lease in held:
            self.known[lease.job_id].lapsed = None

    @precondition(lambda self: self.known)
    @rule(process=processes, data=st.data())
    def cancel(self, process: int, data: st.DataObject) -> None:
        known = self._any(data, list(self.known.values()))
        call = self._states[process].jobs.cancel(known.job_id, time.time())
        if known.status.ended:
            with pytest.raises(JobConflict):
                self._run(call)
            return
        self._run(call)
        known.end(JobStatus.CANCELLED)
        known.checkpoint = None

    # --- what happens to processes ---

    @precondition(lambda self: self.processing())
    @rule(data=st.data())
    def lapse(self, data: st.DataObject) -> None:
        """The holder has not renewed in time."""
        known = self._any(data, self.processing())
        if known.holder is None:
            return
        known.lapsed = self._moment()
        state = self._states[0]
        self._run(state.client.execute("ZADD", state.keys.active, known.lapsed, known.job_id))

    @rule(process=processes)
    def die(self, process: int) -> None:
        """Another process comes in its place; the dead one's claims may still speak up."""
        self._states[process] = self._process()

    @staticmethod
    def _any(data: st.DataObject, among: list[Known]) -> Known:
        return among[data.draw(st.integers(0, len(among) - 1))]

    # --- what is always so ---

    @invariant()
    def valkey_agrees(self) -> None:
        if self._states:
            self._run(self._compare(self._states[0]))

    async def _compare(self, state: State) -> None:
        execute, keys = state.client.execute, state.keys
        queue, active = await asyncio.gather(
            execute("ZRANGE", keys.queue, 0, -1), execute("ZRANGE", keys.active, 0, -1)
        )
        assert queue == self.queue()
        assert sorted(active) == sorted(it.job_id for it in self.processing())
        await asyncio.gather(*(self._compare_job(state, it, queue) for it in self.known.values()))

    async def _compare_job(self, state: State, known: Known, queue: list[str]) -> None:
        keys = state.keys
        job, entries, ttl = await asyncio.gather(
            state.jobs.load(known.job_id),
            state.client.execute("XRANGE", keys.events(known.job_id), "-", "+"),
            state.client.execute("TTL", keys.job(known.job_id)),
        )
        assert job.status is known.status
        waits = known.status is JobStatus.QUEUED
        assert job.queue_position == (queue.index(known.job_id) + 1 if waits else None)
        assert [fields[1] for _, fields in entries] == known.events
        assert (ttl == -1) == (not known.status.ended)


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with valkey_server() as server:
        yield server


def test_queue_and_leases(valkey: Valkey) -> None:
    """Whatever processes do in whatever order, Valkey and the model agree after every step."""
    run_state_machine_as_test(
        lambda: QueueMachine(valkey.url),
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
