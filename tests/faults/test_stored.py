"""``kill -9`` in the middle of a stored source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.content import blocks, sha256
from tests.e2e.archives import MIB, digests
from tests.e2e.service import LocalStorage, Service, Storage, eventually

SIZE = 200 * MIB


async def put(storage: Storage, server: Service, key: str, seed: int) -> None:
    """Put a stored source where the server looks for it."""
    if isinstance(storage, LocalStorage):
        with (server.data_dir / "archives" / key).open("wb") as file:
            for block in blocks(seed, 0, SIZE):
                file.write(block)
        return
    s3: Any = storage
    body = b"".join(blocks(seed, 0, SIZE))
    await s3._client.put_object(Bucket=s3._bucket, Key=key, Body=body)


async def test_killed_in_the_middle_of_a_stored_source(
    service: Callable[..., Service], storage: Storage, folder: Path
) -> None:
    """The next start reads only what is missing, and the archive holds every byte."""
    async with service(storage_source_key="{file_id}.bin") as server:
        await put(storage, server, "70000.bin", 70000)
        job_id = await server.initiate({"file_ids": [70000]})
        await eventually(lambda: sum(server.spool().values()) > 8 * MIB, what="some of it is there")
        await server.kill()
        await server.start()
        job = await server.ended(job_id)
        path = await server.archive(job, folder)
        assert digests(path) == {"70000.bin": sha256(70000, SIZE)}
        resumed = [
            event
            for event in events(server)
            if event["message"] in ("fetch.salvaged", "job.resumed")
        ]
        assert resumed, "nothing was taken up"


def events(server: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
