"""What a run needs from the process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from downloadd.model import Record
from downloadd.pipeline.budget import FetchSlots
from downloadd.pipeline.spool import Spool
from downloadd.ports import Clock, ObjectStore, SourceReader
from downloadd.telemetry.metrics import Metrics
from downloadd.telemetry.tracing import Tracing


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchPolicy(Record):
    """How a file is fetched (SPEC §4.1, §8 ``fetch``). Seconds and bytes."""

    retries: int
    backoff: float
    longest_backoff: float = 30.0
    max_file_bytes: int
    format_check: Literal["warn", "reject", "off"]
    #: Least and most that each file is held back, for trying proxies and pages. Seconds.
    delay: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchServices(Record):
    """What fetching needs from the process."""

    reader: SourceReader
    clock: Clock
    spool: Spool
    slots: FetchSlots
    policy: FetchPolicy
    metrics: Metrics
    tracing: Tracing = field(default_factory=Tracing)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunServices(Record):
    """What a run needs from the process."""

    fetch: FetchServices
    objects: ObjectStore
    #: Fetches of one job at once.
    per_job: int
    max_job_bytes: int
