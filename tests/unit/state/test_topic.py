"""The ring that a job's watchers share."""

from __future__ import annotations

import asyncio

import pytest

from downloadd.model import Event, EventType
from downloadd.state.topic import RING, START, Topic, place_of


def event(number: int, kind: EventType = EventType.PROGRESS) -> Event:
    return Event(type=kind, data={}, id=f"{number}-0")


def filled(*numbers: int) -> Topic:
    topic = Topic("j")
    topic.fill([event(number) for number in reversed(numbers)])
    return topic


def seen(topic: Topic, after: int) -> list[int]:
    return [place_of(found.id)[0] for found in topic.after((after, 0))]


@pytest.mark.parametrize(
    ("text", "place"),
    [("5-1", (5, 1)), ("5", START), ("", START), (None, START), ("a-b", START), ("-1-1", START)],
)
def test_places(text: str | None, place: tuple[int, int]) -> None:
    """A stream id is two numbers; anything else is before the first event."""
    assert place_of(text) == place


def test_places_are_ordered_as_numbers() -> None:
    """10 comes after 9, which as text it does not."""
    assert place_of("10-9") < place_of("10-10")
    assert place_of("9-0") < place_of("10-0")


def test_watchers_read_from_where_they_are() -> None:
    """Each gets what is after its own place."""
    topic = filled(1, 2, 5)
    assert [seen(topic, after) for after in (0, 2, 4, 5, 9)] == [[1, 2, 5], [5], [5], [], []]


def test_an_event_is_there_once() -> None:
    """A publication that the stream's end held already is not added again."""
    topic = Topic("j")
    topic.publish(event(2))
    topic.publish(event(3))
    topic.fill([event(2), event(1)])
    topic.publish(event(3))
    topic.publish(event(4))
    assert seen(topic, 0) == [1, 2, 3, 4]


def test_the_floor_rises_with_what_is_dropped() -> None:
    """Every event after the floor is in the ring; before it, the stream has to be read."""
    topic = filled(*range(1, RING))
    assert topic.floor == START
    topic.publish(event(RING))
    assert topic.floor == START
    topic.publish(event(RING + 1))
    assert topic.floor == (1, 0)
    assert seen(topic, 1) == list(range(2, RING + 2))


def test_a_full_ring_may_not_be_the_whole_stream() -> None:
    """When as many events come as were asked for, there may be older ones."""
    assert filled(*range(1, RING + 1)).floor == (1, 0)


def test_a_lost_connection_forgets_what_came_early() -> None:
    """What was published before the loss is in the stream; the ring is filled anew."""
    topic = filled(1)
    topic.disconnected()
    topic.publish(event(2))
    topic.disconnected()
    assert topic.floor is None
    topic.fill([event(3), event(2), event(1)])
    assert seen(topic, 0) == [1, 2, 3]


def test_a_stream_that_is_not_there() -> None:
    """An empty stream means no such job, until an event says otherwise."""
    topic = filled()
    assert topic.missing
    topic.publish(event(1))
    assert not topic.missing


def test_the_end_is_the_last_event() -> None:
    """After a retry a terminal event is no longer the last."""
    topic = filled(1)
    assert not topic.ended
    topic.publish(event(2, EventType.FAILED))
    assert topic.ended
    topic.publish(event(3, EventType.STATUS))
    assert not topic.ended


async def test_one_waiter_s_end_is_not_another_s() -> None:
    """A cancelled waiter leaves the others waiting, and nothing of itself."""
    topic = filled(1)
    tasks = [asyncio.create_task(topic.changed()) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [True, False, False]
    assert len(topic._waiters) == 2
    topic.publish(event(2))
    await asyncio.gather(*tasks[1:])
    assert not topic._waiters
