"""Who is told of a job's end, and how that went (SPEC §5 "Webhook")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from downloadd.model import Record


class DeliveryStatus(StrEnum):
    """What has become of a message."""

    #: It is to be sent, for the first time or once more, or is on its way.
    PENDING = "pending"
    DELIVERED = "delivered"
    #: The receiver wants no more (410).
    GONE = "gone"
    #: Every try failed.
    EXHAUSTED = "exhausted"
    #: The job was retried before it was delivered: its news are no more.
    SUPERSEDED = "superseded"
    #: What it was to tell of cannot be read.
    UNDELIVERABLE = "undeliverable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery(Record):
    """A message that this process has taken, to send it once."""

    job_id: str
    #: Changes with every claim: an old holder's note of how it went moves nothing.
    token: str
    #: The ``webhook-id``: one for each end of a job, whoever sends it and how often.
    message_id: str
    #: "download.completed", "download.failed" or "download.cancelled".
    type: str
    #: Where to; may hold secrets.
    url: str
    #: By which tries at once are bounded.
    host: str
    #: Tries that failed before, since its schedule began.
    tries: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt(Record):
    """One try at a message."""

    #: When it began, in seconds since the epoch.
    at: float
    #: Seconds.
    duration: float
    #: The HTTP status; None where there was no answer.
    status: int | None = None
    #: A sentence without secrets; None where it went well.
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Message(Record):
    """The news of one end of a job, and its tries."""

    id: str
    type: str
    status: DeliveryStatus
    created_at: float
    #: None when it has ended or is on its way.
    next_at: float | None = None
    #: The oldest first; very old ones are forgotten.
    attempts: Sequence[Attempt] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Due(Record):
    """The answer to ``Outbox.claim``."""

    deliveries: Sequence[Delivery] = ()
    #: Jobs that were gone before their news were delivered, which were dropped.
    forgotten: Sequence[str] = ()
    #: Seconds until another message is due; None: none is known.
    next_in: float | None = None
    #: There may be more at once.
    more: bool = False


class Outbox(Protocol):
    """Messages that survive the process; a job's end puts them here, in one step with the end.

    Every method is one atomic step. Raises ``StateUnavailable``.
    """

    async def claim(
        self, limit: int, *, lease: float, per_host: int, busy: Mapping[str, int]
    ) -> Due:
        """Take up to ``limit`` messages that are due, each for ``lease`` seconds.

        ``busy`` is how many are on their way from here already, by host; of
        none are there more than ``per_host``, those taken now included.
        """
        ...

    async def settle(
        self, delivery: Delivery, attempt: Attempt, status: DeliveryStatus, *, wait: float = 0.0
    ) -> None:
        """Note how a try went; ``PENDING``: the next is due after ``wait`` seconds.

        Of a message that is another's now only the try is noted.
        """
        ...

    async def put_back(self, delivery: Delivery, *, wait: float = 0.0) -> None:
        """Give a message up untried: it is due after ``wait`` seconds."""
        ...

    async def drop(self, delivery: Delivery) -> None:
        """End a message as undeliverable."""
        ...

    async def disown(self, owners: Sequence[str]) -> int:
        """Make due now what dead processes were sending; return how many messages."""
        ...

    async def messages(self, job_id: str) -> Sequence[Message]:
        """What a job's ends were to tell; the oldest first."""
        ...

    async def replay(self, job_id: str) -> None:
        """Make a job's last message due now, its schedule new. ``JobConflict``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer(Record):
    """What came of one request to a receiver."""

    #: None where there was no answer.
    status: int | None = None
    #: A sentence without secrets; None where it went well.
    error: str | None = None
    #: Seconds that the receiver asked us to wait.
    retry_after: float | None = None


class Caller(Protocol):
    """HTTP to receivers."""

    async def call(self, url: str, message_id: str, body: bytes) -> Answer:
        """POST a signed message; whatever is wrong with the receiver is in the answer."""
        ...
