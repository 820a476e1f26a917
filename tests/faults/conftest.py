"""The servers and folders of the end-to-end tests; here they are killed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.e2e.conftest import folder, gateway, origin, service, storage
from tests.e2e.service import S3Storage, origin_process, s3_storage
from tests.gateway import Gateway
from tests.valkey import Valkey, valkey_server

__all__ = ["folder", "gateway", "origin", "service", "storage"]


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A server that no other test touches."""
    with valkey_server() as server:
        yield server


@pytest.fixture
async def bucket(gateway: Gateway) -> AsyncIterator[S3Storage]:
    async with s3_storage(gateway, f"faults-{secrets.token_hex(8)}") as storage:
        yield storage


@pytest.fixture
def distant_origin() -> Iterator[str]:
    """The URL of an origin that is no part of this process."""
    with origin_process() as url:
        yield url
