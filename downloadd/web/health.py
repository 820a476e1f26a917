"""Is everything there that this server depends on?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from downloadd.jobs.probe import Probe


class Health:
    """What all probes say together."""

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self._probes = probes

    async def results(self) -> Mapping[str, bool]:
        """Say of each dependency whether it is well; never raises."""
        answers = await asyncio.gather(*(probe.result() for probe in self._probes.values()))
        return dict(zip(self._probes, answers, strict=True))
