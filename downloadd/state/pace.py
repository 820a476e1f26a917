"""Measurements in Redis: ``ports.PaceStore``.

Everything is sums in which what is older counts for less: each new file, or
job, leaves of the weight of those before it a fixed share.
"""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Collection, Mapping, Sequence

from downloadd.ports import History, PaceStore, Stint, Sums
from downloadd.state.client import Arg, Client, Script
from downloadd.state.keys import Keys

#: What each file, or job, leaves of the weight of those before it: some 50 count.
FILE_DECAY, JOB_DECAY = 0.98, 0.98
#: Hosts that are remembered, and seconds for which they are.
HOSTS_KEPT = 1000
HOST_TTL = 30 * 24 * 3600
#: Seconds after which a process that says nothing counts no more.
PROCESS_TTL = 60
#: Longest name of a host and its port (RFC 1035 §2.3.4).
_LONGEST_HOST = 253 + len(":65535")
#: What a measurement may be at most: seconds, bytes. More is a clock that was set.
_MAX_SECONDS, _MAX_BYTES = 86_400.0, 2.0**50

_MEASURE = Script.load("measure")
_HISTORY = Script.load("history")


class RedisPace(PaceStore):
    """``ports.PaceStore`` over one Redis."""

    def __init__(self, client: Client, keys: Keys, *, owner: str | None = None) -> None:
        """``owner``: who this process is among all that ever share the Redis."""
        self._client = client
        self._keys = keys
        self._owner = owner or uuid.uuid4().hex
        self._operations = itertools.count(1)

    async def record(
        self,
        transfers: Mapping[str, Sums],
        stints: Sequence[Stint],
        *,
        slots: int,
        now: float,
    ) -> None:
        keys = self._keys
        names = [keys.pace, keys.pace_hosts, keys.pace_recent, keys.processes]
        tails = [_seconds(stint.tail) for stint in stints if stint.tail is not None]
        args: list[Arg] = [
            self._owner,
            next(self._operations),
            slots,
            now,
            FILE_DECAY,
            JOB_DECAY,
            HOSTS_KEPT,
            HOST_TTL,
            PROCESS_TTL,
            len(stints),
            sum(_seconds(stint.seconds) for stint in stints),
            len(tails),
            sum(tails),
        ]
        for host, sums in transfers.items():
            if host and len(host) <= _LONGEST_HOST:
                args += [host, *_encode(sums)]
        await self._client.run(_MEASURE, names, args)

    async def read(self, hosts: Collection[str]) -> History:
        keys = self._keys
        names = [keys.pace, keys.pace_hosts, keys.processes, keys.active, keys.queue]
        asked = list(hosts)
        reply = await self._client.run(_HISTORY, names, [PROCESS_TTL, *asked])
        files, jobs, tails, at, slots, active, waiting, sums = reply
        found = {host: _decode(text) for host, text in zip(asked, sums, strict=True)}
        return History(
            overall=_decode(files),
            hosts={host: it for host, it in found.items() if it is not None},
            job_seconds=_mean(jobs),
            tail=_mean(tails),
            slots=int(slots),
            active=int(active),
            waiting=int(waiting),
            at=float(at or 0),
        )


def _seconds(value: float) -> float:
    return min(max(value, 0.0), _MAX_SECONDS)


def _encode(sums: Sums) -> list[Arg]:
    most = sums.files * _MAX_SECONDS
    return [
        sums.files,
        min(max(sums.size, 0.0), sums.files * _MAX_BYTES),
        min(max(sums.received, 0.0), sums.files * _MAX_BYTES),
        min(max(sums.seconds, 0.0), most),
        min(max(sums.latency, 0.0), most),
    ]


def _numbers(text: str | None, count: int) -> list[float] | None:
    """What another version, or somebody's hand, has written is as good as nothing."""
    try:
        numbers = [float(word) for word in (text or "").split()]
    except ValueError:
        return None
    sane = len(numbers) == count and all(math.isfinite(it) and it >= 0 for it in numbers)
    return numbers if sane and numbers[0] > 0 else None


def _decode(text: str | None) -> Sums | None:
    if (numbers := _numbers(text, 5)) is None:
        return None
    files, size, received, seconds, latency = numbers
    return Sums(files=files, size=size, received=received, seconds=seconds, latency=latency)


def _mean(text: str | None) -> float | None:
    numbers = _numbers(text, 2)
    return None if numbers is None else numbers[1] / numbers[0]
