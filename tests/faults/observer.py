"""What Redis and an origin know of jobs, asked without the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import aiohttp
import redis

from downloadd.archive import Layout, part_bounds
from downloadd.pipeline.checkpoint import Checkpoint

PREFIX = "{downloadd}:"
TERMINAL = frozenset({"complete", "failed", "cancelled"})


class Observer:
    """Reads a server's keys; a context manager."""

    def __init__(self, url: str, prefix: str = PREFIX) -> None:
        self._redis = redis.Redis.from_url(url, decode_responses=True)
        self._prefix = prefix

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def events(self, job_id: str) -> list[tuple[str, str]]:
        """Id and type of every event of a job."""
        stream = self._redis.xrange(f"{self._prefix}job:{job_id}:events")
        return [(event_id, fields["t"]) for event_id, fields in stream]

    def ends(self, job_id: str) -> list[str]:
        """The terminal events of a job: there should be one."""
        return [kind for _, kind in self.events(job_id) if kind in TERMINAL]

    def stage(self, job_id: str) -> str:
        """What a job is at, or its status where that is nothing."""
        status, stage = self._redis.hmget(f"{self._prefix}job:{job_id}", "status", "stage")
        return str(stage or status)

    def attempts(self, job_id: str) -> int:
        """How often a job was claimed."""
        return int(self._redis.hget(f"{self._prefix}job:{job_id}", "attempts") or 0)

    def active(self) -> list[str]:
        """Jobs that somebody works on, or did until he died."""
        return list(self._redis.zrange(f"{self._prefix}active", 0, -1))

    def queued(self) -> list[str]:
        return list(self._redis.zrange(f"{self._prefix}queue", 0, -1))

    def untold(self) -> list[str]:
        """Jobs whose end is still to be told to their callback URLs."""
        return list(self._redis.zrange(f"{self._prefix}webhooks", 0, -1))

    def jobs(self) -> set[str]:
        """Every job that was made."""
        begin = f"{self._prefix}job:"
        names = (name.removeprefix(begin) for name in self._redis.scan_iter(f"{begin}*"))
        return {name for name in names if ":" not in name}

    def checkpoint(self, job_id: str) -> Checkpoint | None:
        text = self._redis.get(f"{self._prefix}job:{job_id}:checkpoint")
        if text is None:
            return None
        checkpoint = Checkpoint.parse(text)
        assert checkpoint is not None, "the server's own checkpoint can be read"
        return checkpoint


def covered(checkpoint: Checkpoint | None) -> set[int]:
    """The indexes of the files whose every byte is in a part that the checkpoint names."""
    if checkpoint is None:
        return set()
    stored = [(first := part_bounds(it.number)[0], first + it.size) for it in checkpoint.parts]
    layout, found = Layout(), set()
    for entry in checkpoint.entries:
        layout.append(entry)
        start, stop = layout.span(entry.index)
        there = sum(max(0, min(stop, end) - max(start, first)) for first, end in stored)
        if there == stop - start and entry.index >= 0:
            found.add(entry.index)
    return found


@dataclass(frozen=True)
class Served:
    """What an origin did for one file."""

    requests: int = 0
    sent: int = 0


async def served(origin: str, ending: str) -> Mapping[str, Served]:
    """What an origin did for each path that ends so, when it does no more for a moment."""
    async with aiohttp.ClientSession() as client:
        last = None
        for _ in range(200):
            async with client.get(f"{origin}/counts/{ending}") as response:
                now = await response.json()
            if now == last:
                return {path: Served(*counts) for path, counts in now.items()}
            last = now
            await asyncio.sleep(0.05)
    raise AssertionError(f"the origin still serves {ending}")
