"""Arithmetic of estimates."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.jobs.estimate import Lanes, Outlook, makespan, plan
from downloadd.model import FileEntry, FileStatus, Source, whole_seconds
from downloadd.pipeline import Flight
from downloadd.ports import History, Sums, Transfer

LANES = Lanes(per_job=4, per_host=2)
HOSTS = ("a:443", "b:443", "c:443")
MIB = 1 << 20

ANY = st.floats(0, 1e30, allow_nan=False)
SUMS = st.builds(Sums, files=ANY, size=ANY, received=ANY, seconds=ANY, latency=ANY)
HISTORIES = st.builds(
    History,
    overall=st.none() | SUMS,
    hosts=st.dictionaries(st.sampled_from(HOSTS), SUMS),
    job_seconds=st.none() | ANY,
    tail=st.none() | ANY,
    slots=st.integers(0, 100),
    active=st.integers(0, 1000),
)
SOURCES = st.lists(
    st.builds(
        Source,
        url=st.sampled_from(["https://a/1", "https://b/1", "https://d/1"]),
        size=st.none() | st.integers(0, 1 << 60),
    ),
    max_size=20,
)
TASKS = st.lists(st.tuples(st.sampled_from(HOSTS), st.floats(0, 1e6)), max_size=40)


def source(size: int | None = MIB, host: str = "a") -> Source:
    return Source(url=f"https://{host}/f", size=size)


def entry(index: int, given: int | None = MIB, /, **changes: Any) -> FileEntry:
    return FileEntry(index=index, source=source(given)).evolve(**changes)


def known(rate: float = MIB, *, latency: float = 0.0, size: float = MIB) -> Sums:
    """Fifty files of a host."""
    return Sums(
        files=50, size=50 * size, received=50 * size, seconds=50 * size / rate, latency=50 * latency
    )


# --- beforehand ---------------------------------------------------------------


def test_nothing_measured_nothing_known() -> None:
    """A server that has never fetched a file says nothing of a new job's time."""
    planned = plan(History(), [source()], LANES, slots=8)
    assert planned.work is None
    assert planned.total(1) is None


def test_a_file_costs_its_latency_and_its_bytes() -> None:
    """10 MiB at 1 MiB/s, two seconds to the first byte, half of one after the last file."""
    history = History(overall=known(), hosts={"a:443": known(latency=2.0)}, tail=0.5)
    assert plan(history, [source(10 * MIB)], LANES, slots=8).work == pytest.approx(12.5)


def test_an_unknown_size_is_the_hosts_mean() -> None:
    """Where the caller gives no size, files of the host are as large as they were."""
    history = History(overall=known(), hosts={"a:443": known(size=7 * MIB)})
    assert plan(history, [source(None)], LANES, slots=8).work == pytest.approx(7)


def test_an_unknown_host_is_like_all() -> None:
    """A host that was never asked is expected to go as others do."""
    history = History(overall=known(2 * MIB), hosts={"a:443": known()})
    assert plan(history, [source(8 * MIB, "new")], LANES, slots=8).work == pytest.approx(4)


def test_jobs_before_it_have_to_end_first() -> None:
    """With 3 of 5 slots taken two more begin at once; each further place waits for its turn."""
    history = History(overall=known(), job_seconds=10.0, slots=5, active=3)
    planned = plan(history, [source()], LANES, slots=1)
    assert [planned.turn.wait(place) for place in (1, 2, 3, 12)] == [0, 0, 2, 20]
    assert planned.total(12) == 21


@given(HISTORIES, SOURCES, st.integers(1, 10_000))
def test_plans_are_sane(history: History, sources: list[Source], place: int) -> None:
    """Whatever was measured: no crash, nothing below one second, nothing endless."""
    planned = plan(history, sources, LANES, slots=8)
    assert planned.work is None or 0 <= planned.work <= 7 * 86_400
    total = planned.total(place)
    assert total is None or total >= 1
    assert planned.turn.wait(place) >= 0


@given(SOURCES, st.integers(0, 1 << 50), st.data())
def test_more_bytes_take_no_less(sources: list[Source], more: int, data: st.DataObject) -> None:
    """A larger file never makes a job shorter."""
    if not sources:
        return
    history = History(overall=known(), hosts={"a:443": known(3e6, latency=0.3)})
    before = plan(history, sources, LANES, slots=8).work
    index = data.draw(st.integers(0, len(sources) - 1))
    size = sources[index].size
    larger = [*sources]
    larger[index] = sources[index].evolve(size=(MIB if size is None else size) + more)
    after = plan(history, larger, LANES, slots=8).work
    assert after is None or (before is not None and before <= after + 0.001)


# --- lanes --------------------------------------------------------------------


@given(TASKS)
def test_lanes_lie_between_the_bounds(tasks: list[tuple[str, float]]) -> None:
    """Files side by side take as long as the longest at least, as all after another at most."""
    together = makespan(tasks, LANES)
    seconds = [it for _, it in tasks]
    assert together is not None
    tolerance = 1e-6 * sum(seconds) + 1e-9
    assert together >= max([*seconds, sum(seconds) / LANES.per_job]) - tolerance
    assert together <= sum(seconds) + tolerance


@given(TASKS, st.integers(0, 39), st.floats(0, 1e6))
def test_a_longer_file_shortens_nothing(
    tasks: list[tuple[str, float]], which: int, more: float
) -> None:
    """However the files fall into lanes, one that takes longer makes no job shorter."""
    if not tasks:
        return
    which %= len(tasks)
    host, seconds = tasks[which]
    longer = [*tasks[:which], (host, seconds + more), *tasks[which + 1 :]]
    before, after = makespan(tasks, LANES), makespan(longer, LANES)
    assert before is not None
    assert after is not None
    assert after >= before - 1e-6 * before


def test_a_host_is_asked_for_few_files_at_once() -> None:
    """Four lanes help little where one host serves all, two at once."""
    assert makespan([("a", 1.0)] * 8, LANES) == 4.0
    assert makespan([("a", 1.0), ("b", 1.0)] * 4, LANES) == 2.0


# --- on the way ---------------------------------------------------------------


def flying(arrived: int, begun: float = 0.0) -> Flight:
    return Flight(arrived=arrived, came=arrived, asked=begun, begun=begun)


def fetching(index: int, arrived: int, size: int | None = 10 * MIB) -> FileEntry:
    return entry(index, size, status=FileStatus.FETCHING, size=size, bytes_fetched=arrived)


def test_a_job_of_unknown_hosts_is_silent_until_bytes_come() -> None:
    """Null before anything is measured; with a second's bytes there is an estimate."""
    files = [entry(0, 10 * MIB)]
    outlook = Outlook(History(), files, LANES)
    assert outlook.remaining(files, {0: Flight(asked=0.0)}, 0.3) is None
    assert outlook.remaining([fetching(0, MIB)], {0: flying(MIB, 0.3)}, 1.3) == 9


def test_sizes_nobody_knows_are_not_guessed() -> None:
    """Without one file's size known there is no telling how much will come."""
    outlook = Outlook(History(), [entry(0, None)], LANES)
    assert outlook.remaining([fetching(0, MIB, None)], {0: flying(MIB)}, 2.0) is None


def test_its_own_pace_outweighs_history() -> None:
    """A host that is ten times slower than ever is believed after some seconds."""
    files = [entry(0, 10 * MIB)]
    outlook = Outlook(History(overall=known(), hosts={"a:443": known()}), files, LANES)
    said = []
    for second in range(1, 31):
        arrived = second * MIB // 10
        said.append(outlook.remaining([fetching(0, arrived)], {0: flying(arrived)}, second))
    assert said[0] is not None
    assert said[0] < 30
    assert said[-1] is not None
    assert 60 < said[-1] <= 75  # 7 MiB at a tenth of a MiB a second


def test_a_stall_makes_it_longer_until_nobody_knows() -> None:
    """While nothing comes the estimate grows and is then null; when bytes come it is back."""
    outlook = Outlook(History(), [entry(0, 10 * MIB)], LANES)

    def said(arrived: int, second: float) -> int | None:
        return outlook.remaining([fetching(0, arrived)], {0: flying(arrived)}, second)

    growing = [said(2 * MIB, second) or 0 for second in (2, 6, 12, 20, 30)]
    assert growing[0] == 8
    assert growing == sorted(set(growing))
    assert said(2 * MIB, 3600) is None
    again = [said(2 * MIB + second * MIB // 2, 3600 + second) or 0 for second in (1, 4, 8)]
    assert again[0] > again[1] > again[2] >= 8


def test_what_an_earlier_run_left_is_no_pace() -> None:
    """Bytes from the disk or the storage are done, but nobody fetched them in that second."""
    files = [entry(0, 100 * MIB)]
    outlook = Outlook(History(), files, LANES)
    taken_over = 90 * MIB
    said = [
        outlook.remaining(
            [fetching(0, taken_over + second * MIB, 100 * MIB)],
            {0: flying(second * MIB)},
            second,
        )
        for second in (1, 2, 3)
    ]
    assert said == [9, 8, 7]
    done = [entry(i, MIB, status=FileStatus.COMPLETED, size=MIB) for i in range(50)]
    rest = [*done, fetching(50, MIB)]
    resumed = Outlook(History(), rest, LANES)
    assert resumed.remaining(rest, {50: flying(MIB)}, 1.0) == 9


def test_files_that_wait_for_others_take_longer() -> None:
    """A job whose fetches are held back by other jobs' counts on the lanes that it gets."""
    files = [entry(i, 10 * MIB) for i in range(8)]
    history = History(overall=known(), hosts={"a:443": known()})
    free, held = Outlook(history, files, LANES), Outlook(history, files, LANES)
    under_way = [fetching(i, 0) for i in range(2)]
    rest = [*under_way, *files[2:]]
    waiting = {0: Flight(asked=0.0), 1: Flight()}
    alone = free.remaining(rest, {0: Flight(asked=0.0), 1: Flight(asked=0.0)}, 0.0)
    crowded = held.remaining(rest, waiting, 0.0)
    assert (alone, crowded) == (40, 80)


def test_after_the_last_file_the_end_comes_nearer() -> None:
    """What is left then is what other jobs needed for it, less what has passed, and 1 at least."""
    files = [entry(0, status=FileStatus.COMPLETED)]
    outlook = Outlook(History(tail=10.0), files, LANES)
    assert [outlook.remaining(files, {}, second) for second in (0, 4, 9.5, 60)] == [10, 6, 1, 1]


def test_failed_files_are_done() -> None:
    """A file that is left out needs no time."""
    files = [entry(0, status=FileStatus.FAILED), entry(1)]
    history = History(overall=known(), hosts={"a:443": known(MIB / 5)})
    assert Outlook(history, files, LANES).remaining(files, {}, 0.0) == 5


TIMES = st.floats(0, 1e4)
FLIGHTS = st.dictionaries(
    st.integers(0, 4),
    st.builds(
        Flight,
        arrived=st.integers(0, 1 << 60),
        came=st.integers(0, 1 << 60),
        asked=st.none() | TIMES,
        begun=st.none() | TIMES,
    ),
)
STATES: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict,
        status=st.sampled_from(FileStatus),
        size=st.none() | st.integers(0, 1 << 60),
        bytes_fetched=st.integers(0, 1 << 60),
    ),
    min_size=5,
    max_size=5,
)
TRANSFERS = st.builds(
    Transfer,
    host=st.sampled_from(HOSTS),
    size=st.integers(0, 1 << 60),
    received=st.integers(0, 1 << 60),
    latency=st.floats(0, 1e9),
    seconds=st.floats(0, 1e9),
)


Moment = tuple[list[dict[str, Any]], dict[int, Flight], Transfer | None, float]


@given(HISTORIES, st.lists(st.tuples(STATES, FLIGHTS, st.none() | TRANSFERS, TIMES), max_size=5))
def test_whatever_happens_an_estimate_is_sane(history: History, moments: list[Moment]) -> None:
    """Absurd measurements, impossible moments: never below 1, never endless, never a crash."""
    outlook = Outlook(history, [entry(i, None) for i in range(5)], LANES)
    now = 0.0
    for states, flights, transfer, passed in moments:
        now += passed
        if transfer is not None:
            outlook.fetched(transfer)
        files = [entry(i, None, **state) for i, state in enumerate(states)]
        said = outlook.remaining(files, flights, now)
        assert said is None or 1 <= said <= 7 * 86_400


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, None), (0.0, 1), (-5.0, 1), (1.2, 2), (1e12, None), (math.inf, None), (math.nan, None)],
    ids=("unknown", "none", "past", "up", "endless", "infinite", "no-number"),
)
def test_seconds_as_they_are_told(seconds: float | None, told: int | None) -> None:
    """Whole, rounded up, one at least; what makes no sense is not told."""
    assert whole_seconds(seconds) == told
