"""A service over each kind of storage in turn, and an origin that misbehaves."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.service import LocalStorage, Service, Storage, s3_storage
from tests.gateway import Gateway, run_gateway
from tests.origin import Origin


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short path: Valkey's socket lies in it."""
    return tmp_path_factory.mktemp("e")


@pytest.fixture(params=["local", "s3"])
async def storage(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Storage]:
    if request.param == "local":
        yield LocalStorage(folder / "data")
        return
    gateway = request.getfixturevalue("gateway")
    async with s3_storage(gateway, f"bucket-{secrets.token_hex(8)}") as s3:
        yield s3


@pytest.fixture
def service(folder: Path, storage: Storage) -> Callable[..., Service]:
    """Make a service, to be entered, with settings as in the environment, less the prefix."""

    def make(**settings: object) -> Service:
        environ = {f"DOWNLOADD_{name.upper()}": str(value) for name, value in settings.items()}
        return Service(folder / "data", {**storage.environ, **environ})

    return make


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as origin:
        yield origin
