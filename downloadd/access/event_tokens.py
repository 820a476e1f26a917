"""Tokens for the events of one job: an ``EventSource`` cannot send headers (SPEC §7).

``<expiry>.<HMAC-SHA256>``: good for no other job, no other call, no longer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable

from downloadd.access.caller import Caller
from downloadd.errors import Unauthorized

#: Expiries lie on multiples of this many seconds, so that a job's state is the
#: same answer, with the same tag, for a while.
STEP = 300

_TOKEN = re.compile(r"([0-9]{10,12})\.([A-Za-z0-9_-]{43})")


class EventTokens:
    """Makes and knows them; equal secrets make the same."""

    def __init__(self, secret: bytes, *, ttl: float, now: Callable[[], float] = time.time) -> None:
        """``ttl`` is the seconds for which a token is good, at the least."""
        self._secret = secret
        self._ttl = ttl
        self._now = now

    def make(self, job_id: str) -> str:
        """A token for the events of this job."""
        expiry = str((int(self._now() + self._ttl) // STEP + 1) * STEP)
        return f"{expiry}.{self._signature(job_id, expiry)}"

    def identify(self, token: str, job_id: str) -> Caller:
        """One who may watch this job, and do nothing else. ``Unauthorized``."""
        found = _TOKEN.fullmatch(token)
        if not found or not hmac.compare_digest(self._signature(job_id, found[1]), found[2]):
            raise Unauthorized("The event token is not for this job.")
        if int(found[1]) <= self._now():
            raise Unauthorized("The event token has expired; the job's status has a new one.")
        return Caller(user="", role="", job_id=job_id)

    def _signature(self, job_id: str, expiry: str) -> str:
        text = f"downloadd-events-1\n{job_id}\n{expiry}".encode()
        return (
            base64.urlsafe_b64encode(hmac.digest(self._secret, text, hashlib.sha256))
            .rstrip(b"=")
            .decode()
        )
