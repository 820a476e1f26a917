"""Where it is counted what callers have had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from downloadd.model import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance(Record):
    """What is left of a limit."""

    limit: int
    #: Not below 0.
    remaining: int
    #: Seconds until there is more again.
    reset: float
    #: Whether what was asked for is within the limit.
    granted: bool


class Limiter(Protocol):
    """Counts for all processes together. Raises nothing: it never stands in the way of work."""

    async def pace(self, name: str, who: str, *, limit: int, seconds: int) -> Allowance:
        """Count one more, unless there were ``limit`` within the last ``seconds``."""
        ...

    async def spend(
        self, name: str, who: str, amount: int, *, limit: int, seconds: int
    ) -> Allowance:
        """Count so many more; what is counted ends ``seconds`` after its first.

        A negative amount is given back; of 0 it is granted whether any is left.
        Only of what is not granted the ``reset`` is known.
        """
        ...
