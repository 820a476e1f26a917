"""Events of jobs, from whichever process makes them to every subscriber here.

One pub/sub connection serves the process. A job that is watched has one
subscription and one ring of recent events (``topic.py``), which all its
watchers read at their own pace; whoever falls behind the ring reads the
stream itself. A lost connection is made again and each ring filled anew from
its stream, so that nobody misses an event.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from downloadd.errors import JobNotFound, StateError, StateUnavailable
from downloadd.model import Event
from downloadd.state import codec
from downloadd.state.client import Client, pack
from downloadd.state.connection import BROKEN, Wire, dial
from downloadd.state.keys import Keys
from downloadd.state.topic import RING, Place, Topic, place_of

log = structlog.get_logger(__name__)

#: Seconds between tries to connect again: doubled each time, with jitter.
BACKOFF = 0.05
BACKOFF_LIMIT = 2.0
#: Seconds of silence after which the connection is asked whether it lives,
#: and within which it must then say something.
QUIET = 10.0
#: Seconds that a connection has to last for the next wait to be short again.
STEADY = 5.0
#: Events that a watcher behind the ring reads at once.
PAGE = 200


class Feed:
    """Subscriptions of one process. Made by ``open_feed``."""

    def __init__(self, url: str, client: Client, keys: Keys) -> None:
        self._url = url
        self._client = client
        self._keys = keys
        #: By the channel of their events.
        self._topics: dict[str, Topic] = {}
        self._wake: Callable[[], None] = _ignore
        self._cancel: Callable[[str], None] = _ignore
        self._webhook: Callable[[], None] = _ignore
        self._connected = False
        #: Commands to send, and the topics whose subscription they ask for.
        self._outbox: list[bytes] = []
        self._written = asyncio.Event()
        self._unconfirmed: deque[Topic | None] = deque()
        self._fills: set[asyncio.Task[None]] = set()

    def on_control(self, *, wake: Callable[[], None], cancel: Callable[[str], None]) -> None:
        """Call ``wake()`` when the queue may hold work, ``cancel(job_id)`` when a job was ended.

        Both are called from the loop and must not block. ``wake`` is called
        after each (re)connection too. A cancellation published meanwhile is
        not repeated: the job's next ``renew`` or ``save`` says so.
        """
        self._wake, self._cancel = wake, cancel

    def on_webhook(self, call: Callable[[], None]) -> None:
        """Call ``call()`` when the outbox may hold news; as ``wake`` of ``on_control``."""
        self._webhook = call

    async def watch(self, job_id: str, after: str = "") -> AsyncGenerator[Event]:
        """Yield every event after ``after``, the old and then the new, up to the job's end.

        ``after`` is the id of an event ("" for the beginning). Ends when the
        job's last event is terminal; one before it was followed by a retry. Raises
        ``JobNotFound`` where there is no stream. While Redis is away it waits.
        Close it (``contextlib.aclosing``) when it is left early.
        """
        topic = self._join(job_id)
        try:
            place = place_of(after)
            while events := await self._next(topic, place):
                for event in events:
                    place = place_of(event.id)
                    yield event
        finally:
            self._leave(topic)

    # --- watchers ------------------------------------------------------------

    def _join(self, job_id: str) -> Topic:
        channel = self._keys.events(job_id)
        topic = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = Topic(job_id)
            self._subscribe(channel, topic)
        topic.watchers += 1
        return topic

    def _leave(self, topic: Topic) -> None:
        topic.watchers -= 1
        if topic.watchers == 0:
            channel = self._keys.events(topic.job_id)
            del self._topics[channel]
            self._write(pack("UNSUBSCRIBE", channel))

    async def _next(self, topic: Topic, place: Place) -> list[Event]:
        """The events after a place; waits where there are none yet. Empty: none will come."""
        while True:
            if topic.floor is not None:
                if topic.missing:
                    raise JobNotFound(f"There is no job {topic.job_id}; it may have expired.")
                if place < topic.floor and (events := await self._page(topic, place)):
                    return events
                if (events := topic.after(place)) or topic.ended:
                    return events
            await topic.changed()

    async def _page(self, topic: Topic, place: Place) -> list[Event]:
        """What the stream itself holds after a place. While Redis is away it waits."""
        key, start = self._keys.events(topic.job_id), f"({place[0]}-{place[1]}"
        for failures in itertools.count(1):
            try:
                entries = await self._client.execute(
                    "XRANGE", key, start, "+", "COUNT", PAGE, repeatable=True
                )
            except StateUnavailable:
                await asyncio.sleep(_delay(failures))
            else:
                return [codec.decode_entry(entry) for entry in entries]
        raise AssertionError

    # --- the connection ------------------------------------------------------

    async def serve(self) -> None:
        """Keep the connection, until cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            begun = loop.time()
            try:
                wire = await dial(self._url)
                try:
                    await self._session(wire)
                finally:
                    await self._disconnected(wire)
            except (StateError, *BROKEN) as exc:
                if failures == 0:
                    log.warning("event_feed_lost", reason=str(exc))
            except Exception:
                log.exception("event_feed_failed")
            failures = 0 if loop.time() - begun > STEADY else failures + 1
            await asyncio.sleep(_delay(failures))

    async def _session(self, wire: Wire) -> None:
        """Use one connection until it is lost, which raises."""
        self._connected = True
        self._outbox = [pack("SUBSCRIBE", self._keys.control)]
        self._unconfirmed = deque([None])
        for channel, topic in self._topics.items():
            self._subscribe(channel, topic)
        self._written.set()
        tasks = [asyncio.create_task(self._send(wire)), asyncio.create_task(self._receive(wire))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _disconnected(self, wire: Wire) -> None:
        self._connected = False
        for task in self._fills:
            task.cancel()
        await asyncio.gather(*self._fills, return_exceptions=True)
        for topic in self._topics.values():
            topic.disconnected()
        await wire.disconnect(nowait=True)

    def _subscribe(self, channel: str, topic: Topic) -> None:
        # Answers come in the order of the commands: that is how a
        # subscription given up and taken again is told from its second self.
        if self._connected:
            self._unconfirmed.append(topic)
            self._write(pack("SUBSCRIBE", channel))

    def _write(self, packed: bytes) -> None:
        # While there is no connection nothing is kept: the next session
        # begins with all subscriptions that hold then.
        if self._connected:
            self._outbox.append(packed)
            self._written.set()

    async def _send(self, wire: Wire) -> None:
        while True:
            await self._written.wait()
            self._written.clear()
            packed, self._outbox = b"".join(self._outbox), []
            await wire.send_packed_command(packed, check_health=False)

    async def _receive(self, wire: Wire) -> None:
        asked = False
        while True:
            reply = await wire.read_response(timeout=QUIET, disconnect_on_error=False)
            if reply is None:
                if asked:
                    raise TimeoutError("Redis has gone quiet")
                self._write(pack("PING"))
                asked = True
                continue
            asked = False
            self._dispatch(reply)

    def _dispatch(self, reply: list[str]) -> None:
        match reply:
            case ["message", self._keys.control, message]:
                self._control(message)
            case ["message", channel, message]:
                if topic := self._topics.get(channel):
                    topic.publish(codec.decode_message(message))
            case ["subscribe", *_]:
                self._confirmed(self._unconfirmed.popleft())

    def _control(self, message: str) -> None:
        loop = asyncio.get_running_loop()
        verb, _, job_id = message.partition(" ")
        if verb == "wake":
            loop.call_soon(self._wake)
        elif verb == "cancel":
            loop.call_soon(self._cancel, job_id)
        elif verb == "webhook":
            loop.call_soon(self._webhook)

    def _confirmed(self, topic: Topic | None) -> None:
        """A subscription holds: what was published before it is in the stream."""
        if topic is None:
            self._control("wake")
            self._control("webhook")
        elif topic.watchers:
            task = asyncio.create_task(self._fill(topic))
            self._fills.add(task)
            task.add_done_callback(self._fills.discard)

    async def _fill(self, topic: Topic) -> None:
        key = self._keys.events(topic.job_id)
        failures = 0
        while True:
            try:
                entries = await self._client.execute(
                    "XREVRANGE", key, "+", "-", "COUNT", RING, repeatable=True
                )
            except StateError as exc:
                failures += 1
                log.warning("event_stream_unread", jobId=topic.job_id, reason=exc.message)
                await asyncio.sleep(_delay(failures))
            else:
                topic.fill([codec.decode_entry(entry) for entry in entries])
                return


def _delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    # Jitter keeps processes apart; nothing is secured by it.
    jitter = random.uniform(0.5, 1.0)  # noqa: S311
    return min(BACKOFF_LIMIT, BACKOFF * 2.0 ** min(failures, 10)) * jitter


def _ignore(*_: str) -> None:
    """Nobody listens yet."""


@asynccontextmanager
async def open_feed(url: str, client: Client, keys: Keys) -> AsyncIterator[Feed]:
    """A feed for the length of the context; watchers must have ended by its end."""
    feed = Feed(url, client, keys)
    server = asyncio.create_task(feed.serve(), name="redis-feed")
    try:
        yield feed
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
