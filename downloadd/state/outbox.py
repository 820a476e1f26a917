"""The outbox in Redis: ``ports.Outbox``, every method one script.

What a job's end puts there, it puts there in the script that writes the end
(``send_news`` in ``common.lua``). As with jobs, each script may run again when
its answer was lost, and then changes nothing more.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from downloadd.errors import JobConflict
from downloadd.model import JobStatus
from downloadd.ports import Attempt, Delivery, DeliveryStatus, Due, Message, Outbox
from downloadd.state.client import Arg, Client, Script
from downloadd.state.codec import dumps
from downloadd.state.keys import Keys

_CLAIM = Script.load("outbox_claim")
_SETTLE = Script.load("outbox_settle")
_DISOWN = Script.load("outbox_disown")
_READ = Script.load("outbox_read")
_REPLAY = Script.load("outbox_replay")

_ENDED = " ".join(status for status in JobStatus if status.ended)
_NOT_REPLAYED: Mapping[str, str] = {
    "none": "There is nothing to send again: the job has ended with no callback_url to tell.",
    "running": "The job has not ended; its news are sent when it does.",
    "busy": "The message is on its way just now; see how that goes first.",
}


class RedisOutbox(Outbox):
    def __init__(self, client: Client, keys: Keys, *, owner: str | None = None) -> None:
        """``owner`` as in ``Scripts``."""
        self._client = client
        self._keys = keys
        self._owner = owner or uuid.uuid4().hex
        self._operations = itertools.count(1)

    async def claim(
        self, limit: int, *, lease: float, per_host: int, busy: Mapping[str, int]
    ) -> Due:
        keys, token = self._keys, self._operation()
        args: list[Arg] = [limit, token, lease, per_host, keys.job("%s"), keys.deliveries("%s")]
        args += [part for pair in busy.items() for part in pair]
        names = [keys.webhooks, keys.last_webhooks(self._owner)]
        rows, forgotten, next_in, more = await self._client.run(_CLAIM, names, args)
        return Due(
            deliveries=[_delivery(token, row) for row in rows],
            forgotten=forgotten,
            next_in=float(next_in) if next_in else None,
            more=bool(more),
        )

    async def settle(
        self, delivery: Delivery, attempt: Attempt, status: DeliveryStatus, *, wait: float = 0.0
    ) -> None:
        await self._settle(delivery, status, wait, _encode_attempt(attempt))

    async def put_back(self, delivery: Delivery, *, wait: float = 0.0) -> None:
        await self._settle(delivery, DeliveryStatus.PENDING, wait)

    async def drop(self, delivery: Delivery) -> None:
        await self._settle(delivery, DeliveryStatus.UNDELIVERABLE)

    async def _settle(
        self, delivery: Delivery, status: DeliveryStatus, wait: float = 0.0, attempt: str = ""
    ) -> None:
        args: list[Arg] = [
            delivery.job_id,
            delivery.message_id,
            delivery.token,
            status.value,
            wait,
            attempt,
            self._keys.control,
        ]
        await self._client.run(_SETTLE, self._names(delivery.job_id), args)

    async def disown(self, owners: Sequence[str]) -> int:
        args = [self._keys.deliveries("%s"), *owners]
        return int(await self._client.run(_DISOWN, [self._keys.webhooks], args))

    async def messages(self, job_id: str) -> Sequence[Message]:
        names = [self._keys.deliveries(job_id), self._keys.webhooks]
        flat, due = await self._client.run(_READ, names, [job_id])
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        ids = fields.get("ids", "").split()
        return [_message(name, fields, due if name == ids[-1] else "") for name in ids]

    async def replay(self, job_id: str) -> None:
        args = [job_id, self._operation(), _ENDED, self._keys.control]
        reply = await self._client.run(_REPLAY, self._names(job_id), args)
        if reply != "ok":
            raise JobConflict(_NOT_REPLAYED[reply])

    def _names(self, job_id: str) -> list[str]:
        keys = self._keys
        return [keys.job(job_id), keys.files(job_id), keys.deliveries(job_id), keys.webhooks]

    def _operation(self) -> str:
        return f"{self._owner}:webhook:{next(self._operations)}"


def _delivery(token: str, row: Sequence[Any]) -> Delivery:
    job_id, message_id, kind, url, host, tries = row
    return Delivery(
        job_id=job_id,
        token=token,
        message_id=message_id,
        type=kind,
        url=url,
        host=host,
        tries=int(tries or 0),
    )


def _encode_attempt(attempt: Attempt) -> str:
    """One line, as the script that keeps it needs it."""
    return dumps([attempt.at, attempt.duration, attempt.status, attempt.error])


def _decode_attempt(line: str) -> Attempt:
    at, duration, status, error = json.loads(line)
    return Attempt(at=at, duration=duration, status=status, error=error)


def _message(name: str, fields: Mapping[str, str], due: str) -> Message:
    return Message(
        id=name,
        type=fields[f"{name}:type"],
        status=DeliveryStatus(fields[f"{name}:status"]),
        created_at=float(fields[f"{name}:at"]),
        next_at=float(due) if due else None,
        attempts=[_decode_attempt(line) for line in fields.get(f"{name}:log", "").splitlines()],
    )
