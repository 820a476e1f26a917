"""One Redis connection, and the one table from Redis's errors to ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol, cast

from redis import exceptions as redis
from redis.asyncio.connection import Connection, parse_url

from downloadd.errors import StateError, StateUnavailable

#: Seconds for a connection to be made and to have said hello.
CONNECT_TIMEOUT = 2.0


class Wire(Protocol):
    """What is used of redis-py's connections, with types."""

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool = False) -> None: ...

    async def send_packed_command(
        self,
        command: bytes | Iterable[bytes],
        check_health: bool = True,
    ) -> None: ...

    async def read_response(
        self,
        disable_decoding: bool = False,
        timeout: float | None = None,
        *,
        disconnect_on_error: bool = True,
    ) -> Any: ...


#: What a broken connection raises, from redis-py or below it.
BROKEN = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.InvalidResponse,
    OSError,
    EOFError,
)


def new_wire(url: str) -> Wire:
    """Prepare a connection to ``url`` (redis://, rediss://, unix://) without dialling.

    Replies are decoded to ``str``. Time-outs of reads and writes are the
    caller's business; the one for connecting is ``CONNECT_TIMEOUT``.
    Raises ``StateError`` for a URL that cannot be used.
    """
    try:
        options: dict[str, Any] = dict(parse_url(url))
        kind = options.pop("connection_class", Connection)
        if issubclass(kind, Connection):
            options.setdefault("socket_keepalive", True)
        options |= {
            "decode_responses": True,
            "encoding_errors": "surrogatepass",
            "protocol": 2,
            "socket_timeout": None,
        }
        options.setdefault("socket_connect_timeout", CONNECT_TIMEOUT)
        return cast("Wire", kind(**options))
    except (ValueError, TypeError) as exc:
        # The cause may quote the URL, password included: it is not repeated.
        raise StateError(
            "state.redis_url cannot be used: it is redis://, rediss:// or unix://, "
            "with no options but those of a connection.",
        ) from exc


async def dial(url: str) -> Wire:
    """Connect, log in and choose the database. Raises ``StateError``, ``StateUnavailable``."""
    wire = new_wire(url)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await wire.connect()
    except BaseException as exc:
        await wire.disconnect(nowait=True)
        if isinstance(exc, (redis.RedisError, OSError)):
            raise translate(exc) from exc
        raise
    return wire


# Most specific first. Texts are looked for because servers before 7 wrap the
# error of a command inside a script in one of their own.
_REFUSED = "Redis refuses downloadd's credentials or a command; see state.redis_url and its ACL."
_TABLE: tuple[tuple[tuple[type[Exception], ...], tuple[str, ...], type[StateError], str], ...] = (
    (
        (redis.AuthenticationError, redis.AuthorizationError, redis.NoPermissionError),
        ("NOAUTH", "WRONGPASS", "NOPERM"),
        StateError,
        _REFUSED,
    ),
    (
        (redis.BusyLoadingError,),
        ("LOADING",),
        StateUnavailable,
        "Redis is still loading its data; try again shortly.",
    ),
    (
        (redis.OutOfMemoryError,),
        ("OOM command not allowed", "command not allowed when used memory"),
        StateUnavailable,
        "Redis is out of memory; raise its maxmemory or wait for jobs to expire.",
    ),
    (
        (redis.ReadOnlyError,),
        ("READONLY",),
        StateUnavailable,
        "Redis is a read-only replica now; point state.redis_url at the primary.",
    ),
    (
        (),
        ("MISCONF",),
        StateUnavailable,
        "Redis cannot write to its disk; see its log.",
    ),
    (
        (redis.MovedError, redis.AskError, redis.ClusterCrossSlotError),
        ("MOVED ", "ASK ", "CROSSSLOT"),
        StateError,
        "This node of the Redis cluster does not hold downloadd's keys; "
        "point state.redis_url at the one that does.",
    ),
    (
        (redis.ClusterDownError, redis.TryAgainError),
        ("CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY "),
        StateUnavailable,
        "Redis cannot serve at the moment; try again shortly.",
    ),
    (
        (redis.TimeoutError, TimeoutError),
        (),
        StateUnavailable,
        "Redis did not answer in time; it is overloaded or the network is.",
    ),
    (
        BROKEN,
        (),
        StateUnavailable,
        "Redis cannot be reached; see state.redis_url and whether the server runs.",
    ),
)


def translate(exc: Exception) -> StateError:
    """Our error for one of redis-py's or of the socket below it. To be raised ``from exc``."""
    text = str(exc)
    for kinds, marks, error, message in _TABLE:
        if isinstance(exc, kinds) or any(mark in text for mark in marks):
            return error(message)
    return StateError(f"Redis refused a command: {text}")
