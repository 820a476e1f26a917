"""What the two halves of the job store share: its scripts, and where they are sent."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Mapping

from downloadd.model import TRANSITIONS, JobStatus
from downloadd.ports import Clock, SystemClock
from downloadd.sealing import Sealer
from downloadd.state import codec
from downloadd.state.client import Client, Script
from downloadd.state.installation import Installation
from downloadd.state.keys import Keys
from downloadd.state.ledger import EXPIRED_TTL

#: Jobs that are read with their files at once: such an answer may have megabytes.
_WHOLE_AT_ONCE = 8

_PREAMBLE = "local FIELDS = {" + ",".join(f"'{name}'" for name in codec.FIELDS) + "}"


def script(name: str) -> Script:
    """One of the Lua files beside this module."""
    return Script.load(name, preamble=_PREAMBLE)


def _sources(target: JobStatus) -> str:
    """The statuses from which a job may become ``target``, for a script."""
    return " ".join(old.value for old, targets in TRANSITIONS.items() if target in targets)


SOURCES: Mapping[JobStatus, str] = {status: _sources(status) for status in JobStatus}


def whole_seconds(seconds: float) -> int:
    """Redis counts expiry in whole seconds, from 1."""
    return max(1, round(seconds))


class Scripts:
    """Runs scripts for one process. Durations are in seconds."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        *,
        owner: str | None = None,
        lease: float,
        completed_ttl: float,
        failed_ttl: float,
        retry_window: float,
        archive_ttl: float,
        installation: Installation,
        durable: Client | None = None,
        clock: Clock | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        """``sealer``: for the headers of sources; without one no job may have any."""
        self._client = client
        #: Where a job is created: its answer may have to wait for the disk.
        self._durable = durable or client
        self._keys = keys
        self._lease = lease
        self._clock = clock or SystemClock()
        self._sealer = sealer
        self._ttl: Mapping[JobStatus, int] = {
            # A job outlives its archive, so that callers learn what became of it.
            JobStatus.COMPLETED: whole_seconds(max(completed_ttl, archive_ttl + EXPIRED_TTL)),
            JobStatus.FAILED: whole_seconds(failed_ttl),
            JobStatus.CANCELLED: whole_seconds(failed_ttl),
        }
        self._retry_window = int(retry_window)
        self._archive_ttl = archive_ttl
        self._installation = installation
        # A list may forget what ended long ago; no job waits that long.
        self._listed = 2 * max(self._ttl.values())
        self._whole = asyncio.Semaphore(_WHOLE_AT_ONCE)
        #: Who this process is among all that ever share the Redis.
        self._owner = owner or uuid.uuid4().hex
        self._operations = itertools.count(1)

    def _operation(self) -> str:
        """A name for one write or claim, never used again."""
        return f"{self._owner}:{next(self._operations)}"
