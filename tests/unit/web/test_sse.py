"""Events as bytes: each naming and case once, whoever listens."""

from __future__ import annotations

from prometheus_client import Gauge

from downloadd.model import Event, EventType
from downloadd.web.naming import CANONICAL, EXPORT, FOUR
from downloadd.web.sse import Streams, encode
from downloadd.web.views import Case

DONE = Event(type=EventType.COMPLETE, data={"jobId": "j", "error": None}, id="1-0")


def test_an_event_is_encoded_once_for_each_naming() -> None:
    """Subscribers in turns, some of one naming and some of another, share two encodings."""
    streams = Streams(Gauge("streams", "Of this test.", registry=None))
    listeners = [(CANONICAL, Case.CAMEL), (EXPORT, Case.CAMEL), (EXPORT, Case.SNAKE)] * 3
    told = [streams._encoded(DONE, *who) for who in listeners]
    assert len({id(encoded) for encoded in told}) == 3
    other = DONE.evolve(id="2-0")
    assert b"id: 2-0" in streams._encoded(other, CANONICAL, Case.CAMEL)


def test_names_and_cases() -> None:
    """The type is called as the naming has it, the data's names as the case has them."""
    assert b"event: completed" in encode(DONE, EXPORT)
    assert b"event: complete\r" in encode(DONE, FOUR)
    failed = DONE.evolve(type=EventType.FAILED)
    assert b"event: error" in encode(failed, FOUR)
    assert b'"job_id"' in encode(failed, FOUR, Case.SNAKE)
