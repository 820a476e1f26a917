"""The doors through which a job is worked on: what each implementation owes.

``pipeline/`` talks to ``SourceReader``, ``ObjectStore`` and ``Clock``;
``jobs/`` talks to ``JobStore``, ``Outbox``, ``Caller`` and ``Limiter`` too.
Every error that crosses a door is a ``DownloaddError``; third-party exceptions
never do.
"""

from downloadd.ports.clock import Clock, SystemClock
from downloadd.ports.jobs import (
    Claim,
    Created,
    Deduplication,
    Demand,
    JobStore,
    Lease,
    Page,
    Turn,
    Waiting,
)
from downloadd.ports.limits import Allowance, Limiter
from downloadd.ports.objects import (
    Found,
    ObjectBody,
    ObjectMeta,
    ObjectStore,
    Part,
    PartBody,
    Stored,
    Twin,
)
from downloadd.ports.pace import History, PaceStore, Stint, Sums, Transfer
from downloadd.ports.sources import SourceBody, SourceDescriber, SourceFacts, SourceReader
from downloadd.ports.webhooks import (
    Answer,
    Attempt,
    Caller,
    Delivery,
    DeliveryStatus,
    Due,
    Message,
    Outbox,
)

__all__ = [
    "Allowance",
    "Answer",
    "Attempt",
    "Caller",
    "Claim",
    "Clock",
    "Created",
    "Deduplication",
    "Delivery",
    "DeliveryStatus",
    "Demand",
    "Due",
    "Found",
    "History",
    "JobStore",
    "Lease",
    "Limiter",
    "Message",
    "ObjectBody",
    "ObjectMeta",
    "ObjectStore",
    "Outbox",
    "PaceStore",
    "Page",
    "Part",
    "PartBody",
    "SourceBody",
    "SourceDescriber",
    "SourceFacts",
    "SourceReader",
    "Stint",
    "Stored",
    "Sums",
    "SystemClock",
    "Transfer",
    "Turn",
    "Twin",
    "Waiting",
]
