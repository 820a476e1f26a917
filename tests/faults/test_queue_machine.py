"""The queue and the leases against a model: no job lost, none doubled, every position right.

Hypothesis thinks up what several processes do to one real Valkey, in any order:
they make, claim, save, end, release, put back, put aside, cancel and retry jobs, their
leases lapse, they die, and those who were thought dead go on writing. A model in Python says what
each call must answer, and after each step Valkey is compared with it.

To add a move: a ``@rule`` that makes the call, and says in ``Known`` what it
changes; ``expected`` says which jobs a claim must get, in order.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
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
from downloadd.model import POISON_DEATHS, SUSPECT_DEATHS, JobStatus, Priority, progress_event
from downloadd.ports import Claim, Deduplication, Lease
from downloadd.state.setup import State, open_state
from tests.integration.state.making import end, make_job
from tests.integration.state.turns import Turns
from tests.valkey import Valkey, valkey_server

PROCESSES = 3
RANK = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}
#: No lease lapses by itself while a test runs: only when a step says so.
LEASE = 3600.0
#: Nor does the pause of a job that was put back end.
PAUSES = (1000.0, 2000.0)
ENDS = {
    JobStatus.COMPLETED: "complete",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
}


@dataclass
class Count:
    """What befell a job, since a file has last settled."""

    value: int = 0
    settled: int = 0

    def add(self, settled: int) -> int:
        self.value = 1 if settled > self.settled else self.value + 1
        self.settled = settled
        return self.value


@dataclass
class Known:
    """What the model knows of a job."""

    job_id: str
    rank: int
    user: str
    status: JobStatus = JobStatus.QUEUED
    #: Who may write; None: nobody until the next claim.
    holder: Lease | None = None
    #: When the lease ends, where that is in the past: an order among such.
    lapsed: int | None = None
    attempts: int = 0
    checkpoint: str | None = None
    #: Files that have come or failed.
    settled: int = 0
    deaths: Count = field(default_factory=Count)
    put_backs: Count = field(default_factory=Count)
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
        self._owners: list[str] = []
        self._states: list[State] = []
        self.known: dict[str, Known] = {}
        self._turns = Turns()
        self._moments = 0

    @initialize()
    def begin(self) -> None:
        self._owners = [uuid.uuid4().hex for _ in range(PROCESSES)]
        self._states = [self._process(owner) for owner in self._owners]

    def teardown(self) -> None:
        self._run(self._stack.aclose())
        self._runner.close()

    def _process(self, owner: str) -> State:
        opening = open_state(self._url, owner=owner, prefix=self._prefix, lease=LEASE)
        return self._run(self._stack.enter_async_context(opening))

    def _run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(call)

    def _moment(self) -> int:
        """A moment in the past, later than all before."""
        self._moments += 1
        return self._moments

    # --- the model's answers ---

    def processing(self) -> list[Known]:
        return [it for it in self.known.values() if it.status is JobStatus.PROCESSING]

    def expected(self, limit: int, *, queued: bool, suspects: bool) -> list[str]:
        """The jobs that a claim gets: lapsed ones by the time they lapsed, then the queue.

        Of those that died twice one at most; that a process died is counted
        of all that are looked at.
        """
        lapsed = [it for it in self.processing() if it.lapsed is not None]
        lapsed.sort(key=lambda it: (it.lapsed, it.job_id))
        taken: list[str] = []
        for it in lapsed:
            if len(taken) == limit:
                break
            if it.holder is not None:
                it.deaths.add(it.settled)
                it.holder = None
            if SUSPECT_DEATHS <= it.deaths.value < POISON_DEATHS:
                if not suspects:
                    continue
                suspects = False
            taken.append(it.job_id)
        if queued:
            while len(taken) < limit and self._turns.order:
                taken.append(self._turns.take())
        return taken

    # --- what processes do ---

    @rule(process=processes, priority=st.sampled_from(Priority), user=st.sampled_from("aaab"))
    def create(self, process: int, priority: Priority, user: str) -> None:
        job = make_job(1, priority=priority, user=user)
        jobs = self._states[process].jobs
        created = self._run(jobs.create(job, Deduplication(), queue_limit=1000))
        known = self.known[job.id] = Known(job.id, rank=RANK[priority], user=user)
        self._wait(known)
        assert created.queue_position == self._turns.order.index(job.id) + 1

    def _wait(self, known: Known) -> None:
        self._turns.put(known.user, known.job_id, known.rank)

    @rule(
        target=claims,
        process=processes,
        limit=st.integers(1, 3),
        queued=st.sampled_from([True, True, False]),
        suspects=st.booleans(),
    )
    def claim(self, process: int, limit: int, *, queued: bool, suspects: bool) -> Any:
        return self._claim(process, limit, queued=queued, suspects=suspects)

    def _claim(
        self, process: int, limit: int, *, queued: bool = True, suspects: bool = True
    ) -> list[Claim]:
        jobs = self._states[process].jobs
        claims: list[Claim] = self._run(jobs.claim(limit, queued=queued, suspects=suspects))
        expected = self.expected(limit, queued=queued, suspects=suspects)
        assert [it.job.id for it in claims] == expected
        for it in claims:
            known = self.known[it.job.id]
            known.status, known.holder, known.lapsed = JobStatus.PROCESSING, it.lease, None
            known.attempts += 1
            known.events.append("progress")
            assert (it.checkpoint, it.deaths) == (known.checkpoint, known.deaths.value)
            assert (it.job.status, it.job.attempts) == (known.status, known.attempts)
        return claims

    @rule(
        process=processes,
        claims=claims,
        checkpoint=st.none() | st.text(max_size=3),
        settles=st.booleans(),
    )
    def save(
        self, process: int, claims: list[Claim], checkpoint: str | None, *, settles: bool
    ) -> None:
        for it in claims:
            known = self.known[it.job.id]
            job = it.job.evolve(files_completed=known.settled + settles)
            call = self._states[process].jobs.save(
                it.lease, job, event=progress_event(job), checkpoint=checkpoint
            )
            if self._accepted(it, call):
                known.settled += settles
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
    def put_back(self, process: int, claims: list[Claim]) -> None:
        """As many times as there are pauses, from the first again when a file has settled."""
        for it in claims:
            known = self.known[it.job.id]
            # Kept here, because the answer is wanted.
            times: list[int | None] = []
            if self._accepted(it, self._put_back(process, it, times)):
                count = known.put_backs.add(known.settled)
                if count > len(PAUSES):
                    assert times == [None]
                else:
                    assert times == [count]
                    known.holder, known.lapsed = None, None

    async def _put_back(self, process: int, claim: Claim, times: list[int | None]) -> None:
        times.append(await self._states[process].jobs.postpone(claim.lease, PAUSES))

    @precondition(lambda self: self.known)
    @rule(process=processes, claims=claims, data=st.data())
    def put_aside(self, process: int, claims: list[Claim], data: st.DataObject) -> None:
        """A job that is under way waits for its user's next turn, behind any other's."""
        for it in claims:
            other = self._any(data, list(self.known.values())).job_id
            put = self._run(self._states[process].jobs.put_aside(it.lease, behind=other))
            known = self.known[it.job.id]
            assert put == (known.holder == it.lease)
            if put:
                known.holder, known.lapsed = None, None
                known.events.append("progress")
                self._turns.put_behind(known.user, known.job_id, known.rank, other)

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
        _, checkpoint = self._run(call)
        assert checkpoint == known.checkpoint
        if known.job_id in self._turns.order:
            self._turns.leave(known.job_id)
        known.end(JobStatus.CANCELLED)
        known.checkpoint, known.settled = None, 0

    @precondition(lambda self: self.known)
    @rule(process=processes, data=st.data())
    def retry(self, process: int, data: st.DataObject) -> None:
        known = self._any(data, list(self.known.values()))
        jobs = self._states[process].jobs
        call = jobs.retry(known.job_id, time.time(), queue_limit=1000, body_window=60.0)
        if known.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
            with pytest.raises(JobConflict):
                self._run(call)
            return
        self._run(call)
        # ``end`` says of the one file that it has come, whatever became of the job.
        known.settled = 1 if known.status is JobStatus.FAILED else 0
        known.status = JobStatus.QUEUED
        self._wait(known)
        known.deaths, known.put_backs = Count(), Count()
        known.events.append("status")

    # --- what happens to processes ---

    @precondition(lambda self: self.processing())
    @rule(data=st.data())
    def lapse(self, data: st.DataObject) -> None:
        """The holder has not renewed in time, or a pause is over."""
        self._lapse(self._any(data, self.processing()))

    def _lapse(self, known: Known) -> None:
        if known.status is not JobStatus.PROCESSING or known.job_id in self._turns.order:
            return
        if known.holder is None and known.lapsed is not None:
            return
        known.lapsed = self._moment()
        state = self._states[0]
        self._run(state.client.execute("ZADD", state.keys.active, known.lapsed, known.job_id))

    @rule(process=processes, told=st.booleans())
    def die(self, process: int, *, told: bool) -> None:
        """Another comes in its place, which may know; the dead one's claims may still speak up."""
        dead, self._owners[process] = self._owners[process], uuid.uuid4().hex
        self._states[process] = self._process(self._owners[process])
        if not told:
            return
        found = self._run(self._states[process].jobs.disown([dead]))
        its = [it for it in self.processing() if it.holder and owner_of(it.holder) == dead]
        assert found == len(its)
        for it in its:
            it.lapsed = 0

    @rule(
        target=claims,
        process=processes,
        limit=st.integers(1, 4),
        times=st.integers(2, 5),
        settles=st.integers(0, 5),
    )
    def crash_and_crash(self, process: int, limit: int, times: int, settles: int) -> Any:
        """A process dies of one of its jobs, time after time; its successors claim them anew.

        Once, perhaps, jobs get on before they die.
        """
        claims = self._claim(process, limit)
        for turn in range(times):
            if turn == settles:
                self.save(process, claims, None, settles=True)
            self.die(process, told=True)
            claims = self._claim(process, limit)
        return claims

    @rule(target=claims, process=processes, limit=st.integers(1, 2), times=st.integers(2, 4))
    def trouble_and_trouble(self, process: int, limit: int, times: int) -> Any:
        """What jobs need is away for long: they are put back, time after time."""
        claims = self._claim(process, limit)
        for _ in range(times):
            self.put_back(process, claims)
            for it in claims:
                self._lapse(self.known[it.job.id])
            claims = self._claim(process, limit)
        return claims

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
        assert queue == self._turns.order
        if not queue:
            assert await execute("EXISTS", keys.turns) == 0
        under_way = {it.job_id for it in self.processing()}.difference(queue)
        assert sorted(active) == sorted(under_way)
        waiting = [self.known[job_id] for job_id in queue]
        demand = await state.jobs.demand(64)
        assert [(it.job_id, it.user, RANK[it.priority]) for it in demand.waiting] == [
            (it.job_id, it.user, it.rank) for it in waiting
        ]
        assert demand.running == Counter(self.known[job_id].user for job_id in active)
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


def owner_of(lease: Lease) -> str:
    return lease.token.rpartition(":")[0]


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
