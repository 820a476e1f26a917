"""Why a worker stops although its job has not ended by itself."""

from __future__ import annotations

from enum import Enum, auto


class Stop(Enum):
    """What it was told, or has found."""

    #: Its caller has cancelled the job; that is written already.
    CANCELLED = auto()
    #: The lease is another's; its work must not be touched.
    LOST = auto()
    #: This process ends; another goes on from the checkpoint.
    SHUTDOWN = auto()
    #: It makes room for somebody else's job, and waits for its user's next turn.
    ASIDE = auto()
