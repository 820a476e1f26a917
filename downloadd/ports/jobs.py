"""Where jobs are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from downloadd.model import Event, FileEntry, Job, JobStatus, Priority, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease(Record):
    """The right to work on one job, until it is lost."""

    job_id: str
    #: Changes with every claim: an old holder's writes are refused.
    token: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim(Record):
    """A job that a worker has just taken, its files loaded."""

    lease: Lease
    job: Job
    #: Begins this installation's keys where a storage is shared; ends with a slash.
    namespace: str = ""
    #: What the last worker wrote with ``save``; None on a first run.
    checkpoint: str | None = None
    #: Processes in a row that died with the job, no file having settled in between.
    deaths: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting(Record):
    """A job in the queue, as far as it matters to those that are worked on."""

    job_id: str
    user: str
    priority: Priority
    #: When it was made, as a time stamp.
    since: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand(Record):
    """Who wants a place, and who has some."""

    #: The first of the queue, in its order.
    waiting: Sequence[Waiting]
    #: Jobs under way in all processes, by user.
    running: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Deduplication(Record):
    """How a request may turn out to be one that was made before."""

    #: Hash of caller and body: for a request without an ``idempotency_key``, an
    #: earlier job that is queued, processing or completed is given instead; the
    #: job that is made is remembered under it, key or not. None: neither.
    body_key: str | None = None
    #: Seconds for which ``body_key`` counts.
    body_window: float = 3600.0
    #: Hash of caller and Idempotency-Key, and hash of the body that goes with it.
    idempotency_key: str | None = None
    idempotency_body: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn(Record):
    """How long jobs are expected to wait, by their place in the queue."""

    #: Places that need not wait.
    free: int = 0
    #: Seconds that each further one waits.
    per_place: float = 0.0

    def wait(self, place: int) -> float:
        """Seconds until the job at this place, from 1, is begun."""
        return max(0, place - self.free) * self.per_place


@dataclass(frozen=True, kw_only=True, slots=True)
class Created(Record):
    """The answer to ``JobStore.create``."""

    job_id: str
    #: The job was there before; nothing was made.
    replayed: bool = False
    #: It was found by its Idempotency-Key.
    by_key: bool = False
    #: Of a job just made: 1 is next.
    queue_position: int | None = None
    #: Of a job just made: seconds until its end, waiting included.
    estimated_time: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Record):
    """Some of a user's jobs, without their files."""

    jobs: tuple[Job, ...]
    #: How many there are on all pages.
    total: int


class JobStore(Protocol):
    """Jobs that survive the process. Every method is one atomic step.

    Raises ``StateUnavailable`` when the server cannot be reached.
    """

    async def create(
        self, job: Job, dedup: Deduplication, *, queue_limit: int, turn: Turn | None = None
    ) -> Created:
        """Write a queued job and queue it. ``QueueFull``, ``IdempotencyConflict``.

        With the job's ``work_left`` and ``turn`` its ``estimated_time`` is settled.
        """
        ...

    async def load(self, job_id: str, *, files: bool = False) -> Job:
        """Read a job; with its files, and their state, if asked. ``JobNotFound``."""
        ...

    async def list(
        self, user: str | None, statuses: Collection[JobStatus], *, first: int, limit: int
    ) -> Page:
        """Read a user's jobs, newest first, from the place ``first`` (from 0) on.

        With None for the user everybody's.
        ``statuses`` are those that count; none: all. A completed job counts as
        expired when its archive's time is over.
        """
        ...

    async def claim(
        self, limit: int, *, queued: bool = True, suspects: bool = True
    ) -> Sequence[Claim]:
        """Take up to ``limit`` jobs: lapsed leases first, then (``queued``) the queue.

        Each becomes ``processing``, its ``attempts`` one more, its
        ``started_at`` set when it had none, and a progress event is appended.
        A lease that lapsed without being given up counts as a death. Of jobs
        with ``SUSPECT_DEATHS`` one at most is taken (``suspects``), or none.
        """
        ...

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Extend leases; return those that are lost."""
        ...

    async def save(
        self,
        lease: Lease,
        job: Job,
        *,
        event: Event | None = None,
        checkpoint: str | None = None,
        files: Sequence[FileEntry] = (),
    ) -> None:
        """Write a running job's state. ``JobCancelled``, ``LeaseLost``: nothing is written.

        ``checkpoint`` None keeps the stored one. ``files`` are those whose
        state has changed for good since the last call.
        """
        ...

    async def finish(
        self,
        lease: Lease,
        job: Job,
        event: Event,
        *,
        files: Sequence[FileEntry] = (),
    ) -> None:
        """Write a job's end, give up the lease, append the last event. As ``save``."""
        ...

    async def demand(self, limit: int) -> Demand:
        """Return so many of those who wait at the head of the queue, and who has places."""
        ...

    async def is_first(self, seconds: float) -> bool:
        """Whether no process has asked this within so many seconds, for those that share jobs."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give a lease up so that anybody may claim the job at once. A lost one is no error."""
        ...

    async def put_aside(self, lease: Lease, *, behind: str) -> bool:
        """Give a lease up and queue the job again, behind another; False for a lost one.

        Its status stays, and no worker has it until its turn comes. Raises
        ``StateUnavailable``.
        """
        ...

    async def postpone(self, lease: Lease, pauses: Sequence[float]) -> int | None:
        """Give a lease up so that the job is claimed again after a pause, in seconds.

        The pauses are taken in turn, from the first again when a file has
        settled since; returns which it was, from 1, or None when they are used
        up, and the lease is held still. Raises as ``save``.
        """
        ...

    async def disown(self, owners: Sequence[str]) -> int:
        """Let the leases of dead processes lapse now; return how many there were."""
        ...

    async def cancel(self, job_id: str, now: float) -> tuple[Job, str | None]:
        """Make a queued or processing job cancelled, tell its worker, append the last event.

        Returns the checkpoint that it had, too. ``JobNotFound``;
        ``JobConflict`` when it has ended.
        """
        ...

    async def retry(
        self,
        job_id: str,
        now: float,
        *,
        queue_limit: int,
        body_window: float,
        work: float | None = None,
        traceparent: str | None = None,
    ) -> Job:
        """Queue a failed or cancelled job once more, and append an event that says so.

        It goes on from its checkpoint, where that is still kept. It stands for
        its body again, for ``body_window`` seconds, if no other does. ``work``
        is the seconds of work that are left. ``traceparent`` is the span that
        the next run is linked to.
        ``JobNotFound``, ``JobConflict``, ``QueueFull``.
        """
        ...

    async def announce(self, job_id: str, event: Event) -> None:
        """Tell who watches a job that the store has lost of its last event; keep nothing."""
        ...
