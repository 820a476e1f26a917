"""The table from Redis's errors to ours, and how commands are packed."""

from __future__ import annotations

import pytest
from redis import exceptions as redis
from redis._parsers import BaseParser

from downloadd.errors import StateError, StateUnavailable
from downloadd.state.client import pack
from downloadd.state.connection import new_wire, translate


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ("LOADING Valkey is loading the dataset in memory", StateUnavailable, "loading"),
        ("OOM command not allowed when used memory > 'maxmemory'.", StateUnavailable, "memory"),
        (
            "ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed "
            "when used memory > 'maxmemory'.",
            StateUnavailable,
            "memory",
        ),
        ("READONLY You can't write against a read only replica.", StateUnavailable, "replica"),
        ("MISCONF Errors writing to the AOF file: No space left on device", StateUnavailable, "di"),
        ("CLUSTERDOWN The cluster is down", StateUnavailable, "moment"),
        ("MASTERDOWN Link with MASTER is down", StateUnavailable, "moment"),
        ("BUSY Redis is busy running a script.", StateUnavailable, "moment"),
        ("ERR max number of clients reached", StateUnavailable, "reached"),
        ("NOAUTH Authentication required.", StateError, "credentials"),
        ("WRONGPASS invalid username-password pair", StateError, "credentials"),
        ("NOPERM User x has no permissions", StateError, "credentials"),
        ("MOVED 3999 127.0.0.1:6381", StateError, "cluster"),
        ("WRONGTYPE Operation against a key", StateError, "refused a command"),
    ],
)
def test_what_redis_answers(answer: str, error: type[StateError], says: str) -> None:
    """Each answer has its error: an outage is transient, a fault of the set-up is not."""
    found = translate(BaseParser.parse_error(answer))
    assert type(found) is error
    assert says in found.message


@pytest.mark.parametrize(
    "raised",
    [
        redis.ConnectionError("Error 111 connecting"),
        redis.TimeoutError("Timeout reading"),
        redis.InvalidResponse("Protocol Error"),
        TimeoutError(),
        ConnectionResetError(),
        OSError(24, "Too many open files"),
    ],
)
def test_a_lost_connection_is_an_outage(raised: Exception) -> None:
    """Whatever the layer that noticed."""
    assert type(translate(raised)) is StateUnavailable


def test_messages_hold_no_credential() -> None:
    """A URL that cannot be used is not quoted."""
    with pytest.raises(StateError) as caught:
        new_wire("redis://:secret@h:port")
    assert "secret" not in caught.value.message


def test_any_string_can_be_sent() -> None:
    """A lone surrogate, which JSON can bring in, is sent as the bytes that bring it back."""
    assert pack("ECHO", "\ud800", 1, 1.5, b"x") == (
        b"*5\r\n$4\r\nECHO\r\n$3\r\n\xed\xa0\x80\r\n$1\r\n1\r\n$3\r\n1.5\r\n$1\r\nx\r\n"
    )
