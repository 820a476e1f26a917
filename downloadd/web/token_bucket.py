"""How much one connection may send: a burst, and then so much a second (a token bucket)."""

from __future__ import annotations


class TokenBucket:
    """What is left for one sender; ``now`` is any clock's time, in seconds."""

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, *, burst: float, per_second: float, now: float) -> None:
        self._burst = self._left = burst
        self._per_second = per_second
        self._at = now

    def take(self, count: float, now: float) -> bool:
        """Take from it; whether there was enough."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second) - count
        self._at = now
        return self._left >= 0
