"""Whether the process still wants work."""

from __future__ import annotations


class Lifecycle:
    """The one thing that a stop tells every handler."""

    def __init__(self) -> None:
        #: The process is going away: balancers send new work elsewhere.
        self.draining = False
