"""What the subscribers of a running job are told, and when: progress, and how long it will take."""

from __future__ import annotations

from downloadd.jobs.estimate import Outlook
from downloadd.jobs.pace import PaceBook
from downloadd.model import Event, Job, progress_event
from downloadd.pipeline import Step
from downloadd.ports import Clock

#: Seconds between two progress events, at the least (SPEC §5: four a second).
_EVENT_PAUSE = 0.25
#: Seconds between two of which the second says nothing new but another estimate.
_ESTIMATE_PAUSE = 5.0
#: Such an estimate differs by this share of the one before, and by these seconds.
_SHARE, _SECONDS = 0.25, 2
_ESTIMATE = "estimatedTimeRemaining"


class News:
    """The news of one run."""

    def __init__(self, clock: Clock, book: PaceBook) -> None:
        self._clock = clock
        self._book = book
        self._outlook: Outlook | None = None
        self._told: Event | None = None
        self._told_at = clock.monotonic()  # the claim has made an event

    async def estimated(self, step: Step) -> Job:
        """The step's job, saying how much work is left."""
        if self._outlook is None:  # most jobs end before anybody could ask
            self._outlook = await self._book.outlook(step.job)
        for transfer in step.transfers:
            self._outlook.fetched(transfer)
        now = self._clock.monotonic()
        left = self._outlook.remaining(step.job.files, step.flights, now)
        return step.job.evolve(work_left=left)

    def of(self, job: Job) -> Event | None:
        """What is to be told of the job now: nothing when it is nothing new, or too soon.

        What is held back here is in the next event, and the last one is never held back.
        """
        now = self._clock.monotonic()
        event = progress_event(job)
        if not self._is_news(event, now - self._told_at):
            return None
        self._told, self._told_at = event, now
        return event

    def _is_news(self, event: Event, passed: float) -> bool:
        if passed < _EVENT_PAUSE:
            return False
        if self._told is None:
            return True
        old, new = self._told.data, event.data
        if {**old, _ESTIMATE: None} != {**new, _ESTIMATE: None}:
            return True
        # A job that stands still has ever new estimates: they must not fill its stream.
        return passed >= _ESTIMATE_PAUSE and _differ(old[_ESTIMATE], new[_ESTIMATE])


def _differ(old: int | None, new: int | None) -> bool:
    if old is None or new is None:
        return old != new
    return abs(new - old) >= max(_SECONDS, _SHARE * old)
