"""Requests as bytes, for what no client library would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multidict import CIMultiDict
from yarl import URL

from tests.integration.web.conftest import Server


@dataclass(frozen=True)
class Answer:
    """Everything that came until the server closed the connection."""

    version: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(server: Server, *pieces: bytes) -> Answer:
    """Send bytes, each piece by itself, and read until the server closes."""
    address = URL(server.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        for index, piece in enumerate(pieces):
            if index:
                # For the server to have read what came before.
                await asyncio.sleep(0.1)
            writer.write(piece)
        async with asyncio.timeout(5):
            return parsed(await reader.read())
    finally:
        writer.close()


def parsed(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    version, status, _ = first.split(" ", 2)
    headers = CIMultiDict(line.split(": ", 1) for line in lines)
    return Answer(version, int(status), headers, body)
