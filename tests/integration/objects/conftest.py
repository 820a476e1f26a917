"""Stores over real servers and real folders."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from downloadd.objects.local import LocalStore, open_local_store
from downloadd.objects.s3 import S3Store, open_s3_store
from tests.gateway import Gateway, run_gateway, run_seaweed

#: What local links begin with.
BASE_URL = "http://127.0.0.1:3000"
SECRET = b"s" * 32


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_seaweed(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture
def bucket() -> str:
    """A name that no bucket has yet."""
    return f"bucket-{secrets.token_hex(8)}"


def s3_store_at(
    gateway: Gateway, bucket: str, **options: Any
) -> contextlib.AbstractAsyncContextManager[S3Store]:
    """Open a store on a test server, quick to try again; ``options`` win."""
    return open_s3_store(
        **{
            "bucket": bucket,
            "endpoint": gateway.endpoint,
            "access_key_id": gateway.access_key_id,
            "secret_access_key": gateway.secret_access_key,
            "force_path_style": True,
            "create_bucket": True,
            "first_backoff": 0.01,
            **options,
        }
    )


@pytest.fixture
async def s3_store(gateway: Gateway, bucket: str) -> AsyncIterator[S3Store]:
    async with s3_store_at(gateway, bucket) as store:
        yield store


@pytest.fixture
async def local_store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    async with open_local_store(tmp_path / "objects", base_url=BASE_URL, secret=SECRET) as store:
        yield store


@pytest.fixture(params=["s3", "checksummed", "local"])
async def store(
    request: pytest.FixtureRequest, bucket: str, tmp_path: Path
) -> AsyncIterator[S3Store | LocalStore]:
    """Each store in turn: S3 as most know it, S3 that verifies CRC-32, a folder."""
    if request.param == "local":
        async with open_local_store(
            tmp_path / "objects", base_url=BASE_URL, secret=SECRET
        ) as local:
            yield local
    else:
        server = request.getfixturevalue("gateway" if request.param == "s3" else "seaweed")
        async with s3_store_at(server, bucket) as remote:
            yield remote
