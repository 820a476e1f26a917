"""Who gives up a place when somebody waits who has fewer.

The queue lets users take turns, but a turn comes only when a job ends: as many
slow jobs of one user as there are places would keep all others waiting for
hours. A job that gives up its place waits for its user's next turn, and goes
on from its checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from downloadd.model import Job, Priority
from downloadd.ports import Clock, JobStore

#: Seconds that somebody waits before a running job has to go for them.
PATIENCE = 5.0

#: Of the queue so many are looked at: its order is by turns, so many users.
_LOOKED_AT = 64

#: The most important first.
_PRIORITIES = tuple(Priority)


async def one_too_many(store: JobStore, clock: Clock, running: Sequence[Job]) -> Job | None:
    """Return the job that is to make room for the first who waits and has fewer, if any is.

    ``running`` are those of this process, the latest last: of the user who has
    most of them, and would have no fewer than the one who waits, the latest
    goes, for it has got least far. None goes for a job of less importance than
    its own. Raises ``StateError``.
    """
    jobs = Counter(job.user for job in running)
    user, most = jobs.most_common(1)[0] if jobs else ("", 0)
    if most < 2:
        return None
    late = clock.now() - PATIENCE
    for waiting in await store.waiting(_LOOKED_AT):
        if waiting.since <= late and jobs[waiting.user] + 1 < most:
            importance = _PRIORITIES.index(waiting.priority)
            theirs = (job for job in reversed(running) if job.user == user)
            return next((it for it in theirs if _importance(it) >= importance), None)
    return None


def _importance(job: Job) -> int:
    return _PRIORITIES.index(job.options.priority)
