"""Who gives up a place when somebody waits who has fewer.

The queue lets users take turns, but a turn comes only when a job ends: as many
slow jobs of one user as there are places would keep all others waiting for
hours. A job that gives up its place waits behind the one it goes for, and goes
on from what it has stored and what is on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from downloadd.model import SUSPECT_DEATHS, Priority, Record
from downloadd.ports import Claim, Demand, Waiting

#: Seconds that somebody waits before a running job has to go for them.
PATIENCE = 5.0
#: Seconds that a job keeps its place that was begun before: what a source without
#: ranges sends is lost when it goes, and it is to get somewhere in the end.
KEEPS_PLACE = 60.0
#: Of the queue so many are looked at: its order is by turns, so many users.
LOOKED_AT = 64

#: The most important first.
_PRIORITIES = tuple(Priority)


@dataclass(frozen=True, kw_only=True, slots=True)
class Running(Record):
    """A job that this process works on."""

    claim: Claim
    #: Since when, as a time stamp.
    since: float

    def may_go(self, now: float) -> bool:
        """Whether it may be taken up later as well as worked on now."""
        # One that may have killed processes is not put where it is begun beside others.
        begun_before = self.claim.job.attempts > 1
        return self.claim.deaths < SUSPECT_DEATHS and (
            not begun_before or now - self.since >= KEEPS_PLACE
        )


def one_too_many(
    demand: Demand, running: Sequence[Running], now: float
) -> tuple[Running, Waiting] | None:
    """Return which of these is to make room, and for whom, if any is.

    ``running`` has the latest last. The first who waits, and who has fewer
    jobs under way than somebody would have left, gets the place of that user's
    latest; none goes for a job of less importance than its own.
    """
    candidates = [it for it in reversed(running) if it.may_go(now)]
    for waiting in demand.waiting:
        if now - waiting.since < PATIENCE:
            continue
        found = [it for it in candidates if _goes_for(it, waiting, demand)]
        if found:
            return max(found, key=lambda it: demand.running[it.claim.job.user]), waiting
    return None


def _goes_for(running: Running, waiting: Waiting, demand: Demand) -> bool:
    job = running.claim.job
    theirs, other = demand.running.get(job.user, 0), demand.running.get(waiting.user, 0)
    importance = _PRIORITIES.index(job.options.priority)
    return other + 1 < theirs and importance >= _PRIORITIES.index(waiting.priority)
