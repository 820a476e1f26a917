"""Is everything there that this server depends on?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from downloadd.jobs.probe import Probe

#: How long ``known`` waits, and how old what it says may be.
PATIENCE_SECONDS, AGE_SECONDS = 0.01, 60.0


class Health:
    """What all probes say together."""

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self._probes = probes

    async def known(self) -> Mapping[str, bool | None]:
        """Say at once what is known of each; None where it was last looked at long ago.

        A dependency that does not answer is told of the next time; never raises.
        """
        looks = (probe.recent(PATIENCE_SECONDS, AGE_SECONDS) for probe in self._probes.values())
        return dict(zip(self._probes, await asyncio.gather(*looks), strict=True))

    async def results(self) -> Mapping[str, bool]:
        """Say of each dependency whether it is well; never raises."""
        answers = await asyncio.gather(*(probe.result() for probe in self._probes.values()))
        return dict(zip(self._probes, answers, strict=True))
