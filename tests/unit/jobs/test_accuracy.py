"""How good estimates are, over simulated jobs. Its figures: ``pytest -s``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

from downloadd.jobs.estimate import Lanes, Outlook, plan
from downloadd.ports import History
from tests.unit.jobs.simulation import PER_HOST, PER_JOB, File, World

LANES = Lanes(per_job=PER_JOB, per_host=PER_HOST)
SEEDS = (1, 2, 3)


def warm(seed: int) -> World:
    """A world of hosts of which a server remembers 200 jobs."""
    world = World(seed=seed)
    for _ in range(200):
        for _ in world.run(world.files()):
            pass
    return world


def half_way_error(world: World, files: Sequence[File], history: History) -> float:
    """How far off, relatively, the time is that is said to be left when half of the bytes are."""
    outlook: Outlook | None = None
    said, at, now = None, None, 0.0
    for moment in world.run(files):
        now = moment.now
        if at is not None:
            continue
        outlook = outlook or Outlook(history, moment.entries(), LANES)
        for transfer in moment.transfers:
            outlook.fetched(transfer)
        said = outlook.remaining(moment.entries(), moment.flights(), now)
        if moment.share() >= 0.5:
            at = now
    assert said is not None
    assert at is not None
    return abs(said - (now - at)) / (now - at)


def told(what: str, errors: Sequence[float]) -> float:
    print(f"{what}: median {median(errors):.1%}, p90 {quantiles(errors, n=10)[-1]:.1%}")
    return median(errors)


def test_half_way_the_median_error_is_below_a_quarter() -> None:
    """With 200 jobs of history, the estimates of 300 more are off by 25 % at most, mostly."""
    errors = []
    for seed in SEEDS:
        world = warm(seed)
        errors += [half_way_error(world, world.files(), world.history()) for _ in range(100)]
    assert len(errors) == 300
    assert told("half-way", errors) < 0.25


def test_without_history_a_job_learns_from_itself() -> None:
    """Where nothing was ever measured, the estimates at half-way are off by a third, mostly."""
    world = World(seed=4)
    errors = [half_way_error(world, world.files(), History()) for _ in range(100)]
    assert told("half-way, no history", errors) < 0.33


def test_at_creation_history_tells_the_order_of_magnitude() -> None:
    """What is said when a job is made is off by less than half, mostly."""
    errors = []
    world = warm(5)
    for _ in range(100):
        files = world.files()
        sources = [file.entry().source for file in files]
        said = plan(world.history(), sources, LANES, slots=8).total(1)
        assert said is not None
        truth = [moment.now for moment in world.run(files)][-1]
        errors.append(abs(said - truth) / truth)
    assert told("at creation", errors) < 0.5
