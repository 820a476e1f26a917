"""Who makes room for whom."""

from __future__ import annotations

from typing import Any

import pytest

from downloadd.jobs.sharing import KEEPS_PLACE, PATIENCE, Running, one_too_many
from downloadd.model import SUSPECT_DEATHS, Job, Options, Priority
from downloadd.ports import Claim, Demand, Lease, Waiting

NOW = 1_000_000.0
HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW


def running(
    name: str, *, since: float = NOW, deaths: int = 0, attempts: int = 1, priority: Any = NORMAL
) -> Running:
    """A job whose user is the name's letter."""
    job = Job(
        id=name,
        user=name[0],
        total_files=1,
        options=Options(priority=priority),
        attempts=attempts,
        created_at=0.0,
        updated_at=0.0,
    )
    claim = Claim(lease=Lease(job_id=name, token="t"), job=job, deaths=deaths)
    return Running(claim=claim, since=since)


def waiting(name: str, *, since: float = NOW - PATIENCE, priority: Any = NORMAL) -> Waiting:
    return Waiting(job_id=name, user=name[0], priority=priority, since=since)


def gone(
    places: list[Running], queue: list[Waiting], elsewhere: dict[str, int] | None = None
) -> tuple[str, str] | None:
    counts = dict(elsewhere or {})
    for it in places:
        counts[it.claim.job.user] = counts.get(it.claim.job.user, 0) + 1
    found = one_too_many(Demand(waiting=queue, running=counts), places, NOW)
    return None if found is None else (found[0].claim.job.id, found[1].job_id)


@pytest.mark.parametrize(
    ("places", "queue", "elsewhere", "expected"),
    [
        # The latest of the user who has most.
        ([running("e1"), running("e2"), running("b1")], [waiting("a1")], {}, ("e2", "a1")),
        # The first who has fewer, whoever stands before.
        ([running("e1"), running("e2")], [waiting("e3"), waiting("a1")], {}, ("e2", "a1")),
        # Who would have as many as is left keeps waiting.
        ([running("e1"), running("e2"), running("a1")], [waiting("a2")], {}, None),
        ([running("e1"), running("b1")], [waiting("a1")], {}, None),
        ([], [waiting("a1")], {}, None),
        ([running("e1"), running("e2")], [], {}, None),
        # What runs in other processes counts, for either.
        ([running("e1"), running("b1")], [waiting("a1")], {"e": 1}, ("e1", "a1")),
        ([running("e1"), running("e2")], [waiting("a1")], {"a": 1}, None),
        # Nobody goes for one who has just come.
        ([running("e1"), running("e2")], [waiting("a1", since=NOW - PATIENCE + 0.1)], {}, None),
        # … or for one of less importance.
        ([running("e1"), running("e2")], [waiting("a1", priority=LOW)], {}, None),
        ([running("e1"), running("e2")], [waiting("a1", priority=HIGH)], {}, ("e2", "a1")),
        # Another's more important jobs are no reason for all to stay.
        (
            [
                running("v1", priority=HIGH),
                running("v2", priority=HIGH),
                running("e1"),
                running("e2"),
            ],
            [waiting("a1")],
            {},
            ("e2", "a1"),
        ),
        # One that has died with a process may go; one that may have killed some may not.
        ([running("e1", deaths=1), running("e2", deaths=1)], [waiting("a1")], {}, ("e2", "a1")),
        (
            [running("e1"), running("e2", deaths=SUSPECT_DEATHS)],
            [waiting("a1")],
            {},
            ("e1", "a1"),
        ),
        # One that was begun before has its time.
        ([running("e1"), running("e2", attempts=2)], [waiting("a1")], {}, ("e1", "a1")),
        (
            [running("e1"), running("e2", attempts=2, since=NOW - KEEPS_PLACE)],
            [waiting("a1")],
            {},
            ("e2", "a1"),
        ),
    ],
)
def test_who_goes(
    places: list[Running],
    queue: list[Waiting],
    elsewhere: dict[str, int],
    expected: tuple[str, str] | None,
) -> None:
    assert gone(places, queue, elsewhere) == expected
