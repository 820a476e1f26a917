"""How many event streams are open at once: of one client, and in all (SPEC §7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from downloadd.errors import StreamsFull, TooManyStreams

#: Seconds after which it makes sense to ask again: streams end by themselves.
_LATER = 10.0


class StreamSlots:
    """Every open stream has one, Server-Sent Events and WebSockets alike."""

    def __init__(self, *, per_client: int, total: int) -> None:
        self._per_client = per_client
        self._total = total
        self._held: Counter[str] = Counter()

    @contextmanager
    def held(self, who: str) -> Iterator[None]:
        """Hold a slot for the length of the context. ``TooManyStreams``, ``StreamsFull``."""
        if self._held.total() >= self._total:
            raise StreamsFull(
                "As many jobs are being watched as this server can. Ask for the status instead.",
                retry_after=_LATER,
            )
        if self._held[who] >= self._per_client:
            raise TooManyStreams(
                f"One client watches {self._per_client} jobs at once, at most. "
                "End some, or ask for the status instead.",
                retry_after=_LATER,
            )
        self._held[who] += 1
        try:
            yield
        finally:
            self._held[who] -= 1
            if not self._held[who]:
                del self._held[who]
