"""What is said of a dependency while it does not answer."""

from __future__ import annotations

import asyncio

from downloadd.errors import StateUnavailable
from downloadd.jobs.probe import CACHE_SECONDS, Probe
from tests.fakes import FakeClock

#: As long as a scrape waits, and as old as what it tells may be; seconds.
WAIT, AGE = 0.05, 60.0


class Dependency:
    def __init__(self) -> None:
        self.there = True
        self.answers = asyncio.Event()
        self.asked = 0

    async def check(self) -> None:
        self.asked += 1
        await self.answers.wait()
        if not self.there:
            raise StateUnavailable("Away.")


async def test_what_answers_at_once_is_asked_now() -> None:
    """Once a second at most, however many ask."""
    clock, it = FakeClock(), Dependency()
    it.answers.set()
    probe = Probe("redis", it.check, clock)
    assert [await probe.recent(WAIT, AGE) for _ in range(5)] == [True] * 5
    assert it.asked == 1
    it.there = False
    clock.time += CACHE_SECONDS
    assert await probe.recent(WAIT, AGE) is False


async def test_what_does_not_answer_is_told_of_as_it_was_for_a_while() -> None:
    """Then nobody knows; and when it has answered, at last, that is told."""
    clock, it = FakeClock(), Dependency()
    probe = Probe("redis", it.check, clock)
    assert await probe.recent(WAIT, AGE) is None
    it.answers.set()
    assert await probe.recent(WAIT, AGE) is True
    it.answers.clear()
    clock.time += AGE
    assert await probe.recent(WAIT, AGE) is True
    clock.time += 1
    assert await probe.recent(WAIT, AGE) is None
    assert it.asked == 2
    it.there = False
    it.answers.set()
    assert await probe.recent(WAIT, AGE) is False
    await probe.close()
