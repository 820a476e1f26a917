"""Commands of many tasks on one connection: one write and one read for all of a moment.

A round trip costs redis-py more than the command itself. Here the commands
that tasks issue while the loop turns once, or while the last batch is under
way, are packed, written together and answered in order. A waiter that is
cancelled leaves its place: its reply is read and dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha1
from importlib import resources
from typing import Any

import hiredis
import structlog
from redis import exceptions as redis

from downloadd.errors import StateError, StateUnavailable
from downloadd.state.connection import BROKEN, Wire, dial, translate

log = structlog.get_logger(__name__)

#: What may be sent to Redis.
Arg = str | bytes | int | float

#: How often a command is sent before its waiter is told that Redis is away.
TRIES = 3
#: Seconds between these tries: doubled each time.
BACKOFF = 0.05
#: Commands that one round holds: a later one waits for so many answers at most.
BATCH = 128


class Script:
    """A Lua program, known to the server by its SHA-1 once it has run there."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source.encode()
        # Redis names scripts by SHA-1; nothing is secured by it.
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, name: str, *, preamble: str = "") -> Script:
        """Read ``<name>.lua`` beside this module, ``preamble`` and ``common.lua`` before it."""
        folder = resources.files(__package__)
        parts = [preamble, *((folder / f"{part}.lua").read_text() for part in ("common", name))]
        return cls(name, "\n".join(parts))


class _Command:
    """One command on its way."""

    __slots__ = ("future", "packed", "repeatable", "script", "script_args", "tries")

    def __init__(
        self,
        packed: bytes,
        *,
        repeatable: bool,
        script: Script | None = None,
        script_args: tuple[Arg, ...] = (),
    ) -> None:
        self.packed = packed
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        #: Sending it twice does what sending it once does.
        self.repeatable = repeatable
        self.script = script
        self.script_args = script_args
        self.tries = 0

    def fail(self, error: StateError) -> None:
        """Raise a copy of ``error`` in the waiter: a traceback belongs to one task."""
        if not self.future.done():
            own = type(error)(error.message)
            own.__cause__ = error.__cause__
            self.future.set_exception(own)

    def succeed(self, reply: Any) -> None:
        if not self.future.done():
            self.future.set_result(reply)

    def use_source(self, script: Script) -> None:
        """From now on send the whole script: the server does not know its name."""
        self.packed = pack("EVAL", script.source, *self.script_args)


# Its own annotation says: a tuple of one.
_pack: Callable[[tuple[Arg, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]


def pack(*args: Arg) -> bytes:
    """A command as it goes over the wire."""
    try:
        return _pack(args)
    except UnicodeEncodeError:
        # A lone surrogate (JSON can say "\ud800") has no UTF-8 of its own.
        return _pack(
            tuple(a.encode("utf-8", "surrogatepass") if isinstance(a, str) else a for a in args),
        )


class Client:
    """The connection that all tasks share. Made by ``open_client``."""

    def __init__(self, url: str, *, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._queue: list[_Command] = []
        self._idle: asyncio.Future[None] | None = None
        self._wire: Wire | None = None
        self._closed = False

    async def execute(self, *args: Arg, repeatable: bool = False) -> Any:
        """Send a command and return its reply, decoded.

        A ``repeatable`` one is sent again when the connection is lost before
        its reply; any other fails then. Raises ``StateUnavailable``, ``StateError``.
        """
        return await self._submit(_Command(pack(*args), repeatable=repeatable))

    async def run(self, script: Script, keys: Sequence[str], args: Iterable[Arg] = ()) -> Any:
        """Run a script; it must do the same when it runs again after a lost answer."""
        rest: tuple[Arg, ...] = (len(keys), *keys, *args)
        packed = pack("EVALSHA", script.sha, *rest)
        return await self._submit(
            _Command(packed, repeatable=True, script=script, script_args=rest),
        )

    async def ping(self) -> None:
        """Return when the server answers. Raises ``StateUnavailable``."""
        await self.execute("PING", repeatable=True)

    def _submit(self, command: _Command) -> asyncio.Future[Any]:
        if self._closed:
            raise _stopping()
        self._queue.append(command)
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        return command.future

    async def serve(self) -> None:
        """Send batch after batch, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self._idle = loop.create_future()
                await self._idle
            batch = deque(it for it in self._queue[:BATCH] if not it.future.done())
            del self._queue[:BATCH]
            if batch:
                await self._round(batch)

    async def close(self) -> None:
        """Hang up; whoever still waits gets ``StateUnavailable``."""
        self._closed = True
        _fail(self._queue, _stopping())
        await self._hang_up()

    async def _round(self, batch: deque[_Command]) -> None:
        """Try a batch once; what may be tried again is queued before all else."""
        sent = False
        try:
            if self._wire is None:
                self._wire = await dial(self._url)
            sent = True
            async with asyncio.timeout(self._timeout):
                await self._exchange(self._wire, batch)
        except asyncio.CancelledError:
            _fail(batch, _stopping())
            raise
        except Exception as exc:
            # Whatever it was, no task may be left waiting.
            await self._hang_up()
            if not isinstance(exc, (StateError, *BROKEN)):
                log.exception("redis_batch_failed")
            error = exc if isinstance(exc, StateError) else caused(exc)
            if _timed_out(exc):
                # Who has come meanwhile would only wait as long once more.
                _fail([*batch, *self._queue], error)
                self._queue.clear()
            elif error.transient:
                await self._again(batch, error, sent=sent)
            else:
                _fail(batch, error)

    async def _exchange(self, wire: Wire, batch: deque[_Command]) -> None:
        """Send a batch and settle its commands, which leave it as they are answered."""
        await wire.send_packed_command(
            b"".join([command.packed for command in batch]),
            check_health=False,
        )
        while batch:
            reply = await read_reply(wire)
            self._settle(batch.popleft(), reply)

    def _settle(self, command: _Command, reply: Any) -> None:
        if isinstance(reply, redis.NoScriptError) and command.script is not None:
            command.use_source(command.script)
            self._queue.insert(0, command)
        elif isinstance(reply, Exception):
            command.fail(caused(reply))
        else:
            command.succeed(reply)

    async def _again(self, batch: Iterable[_Command], error: StateError, *, sent: bool) -> None:
        """After a lost connection: queue what was not answered and may be repeated."""
        waiting = []
        for command in batch:
            command.tries += 1
            if command.tries < TRIES and (command.repeatable or not sent):
                waiting.append(command)
            else:
                command.fail(error)
        if waiting:
            self._queue = waiting + self._queue
            await asyncio.sleep(BACKOFF * 2 ** min(command.tries for command in waiting))

    async def _hang_up(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.disconnect(nowait=True)


class DurableClient(Client):
    """A client whose every reply means: on the server's disk (WAITAOF, Redis 7.2).

    One wait serves a whole batch. A server without the command answers as
    soon as it has written; that is logged once.
    """

    #: Milliseconds; a server that fsyncs every second needs up to two.
    _FENCE = pack("WAITAOF", 1, 0, 3000)
    _fenced = True

    async def _exchange(self, wire: Wire, batch: deque[_Command]) -> None:
        if not self._fenced:
            await super()._exchange(wire, batch)
            return
        packed = [command.packed for command in batch]
        await wire.send_packed_command(b"".join([*packed, self._FENCE]), check_health=False)
        replies = [await read_reply(wire) for _ in batch]
        error = self._verdict(await read_reply(wire))
        for reply in replies:
            command = batch.popleft()
            if error is None or isinstance(reply, Exception):
                self._settle(command, reply)
            else:
                command.fail(error)

    def _verdict(self, reply: Any) -> StateError | None:
        """What WAITAOF's answer ([local, replicas] that have it on disk) means."""
        if isinstance(reply, Exception):
            if "unknown command" in str(reply):
                self._fenced = False
                log.warning("redis_has_no_waitaof", consequence="jobs are durable as it fsyncs")
                return None
            if "appendonly is disabled" in str(reply):
                return StateError("state.wait_for_fsync is on, but Redis has appendonly off.")
            return caused(reply)
        if int(reply[0]) < 1:
            return StateUnavailable("Redis did not have the job on disk in time; try again.")
        return None


async def read_reply(wire: Wire) -> Any:
    """The next reply; an error that Redis sends for one command is returned, not raised."""
    try:
        return await wire.read_response(disconnect_on_error=False)
    except (redis.ResponseError, redis.BusyLoadingError) as exc:
        return exc


def caused(exc: Exception) -> StateError:
    """``translate``, with the cause attached for errors that are not raised here."""
    error = translate(exc)
    error.__cause__ = exc
    return error


def _timed_out(exc: Exception) -> bool:
    return any(isinstance(it, (TimeoutError, redis.TimeoutError)) for it in (exc, exc.__cause__))


def _fail(commands: Iterable[_Command], error: StateError) -> None:
    for command in commands:
        command.fail(error)


def _stopping() -> StateUnavailable:
    return StateUnavailable("The connection to Redis is closed: downloadd is stopping.")


@asynccontextmanager
async def open_client(
    url: str,
    *,
    timeout: float = 5.0,
    durable: bool = False,
) -> AsyncIterator[Client]:
    """A client for the length of the context. It connects at its first command.

    ``timeout`` is in seconds, for the answers to one batch. At the end,
    commands that still wait fail with ``StateUnavailable``.
    """
    client = (DurableClient if durable else Client)(url, timeout=timeout)
    worker = asyncio.create_task(client.serve(), name="redis-batches")
    try:
        yield client
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        await client.close()
