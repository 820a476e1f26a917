"""What fetching a file needs, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from downloadd.archive import Method
from downloadd.model import Record
from downloadd.pipeline.budget import FetchSlots
from downloadd.pipeline.spool import Payload, Spool
from downloadd.ports import Clock, SourceReader
from downloadd.telemetry.metrics import Metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchPolicy(Record):
    """How a file is fetched (SPEC §4.1, §8 ``fetch``). Seconds and bytes."""

    retries: int
    backoff: float
    longest_backoff: float = 30.0
    max_file_bytes: int
    format_check: Literal["warn", "reject", "off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchServices(Record):
    """What fetching needs from the process."""

    reader: SourceReader
    clock: Clock
    spool: Spool
    slots: FetchSlots
    policy: FetchPolicy
    metrics: Metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched(Record):
    """A file that is here, whole and verified."""

    payload: Payload
    method: Method
    crc32: int
    size: int
    packed_size: int
    sha256: str
    #: From the source, seconds since the epoch.
    modified: float | None
    #: File name that the source gave, raw.
    disposition: str | None
