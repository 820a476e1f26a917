"""A Valkey for the session; a prefix of its own for each test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from downloadd.state.setup import State, open_state
from tests.valkey import Valkey, valkey_server


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A server that no test stops or changes."""
    with valkey_server() as server:
        yield server


#: What the headers of sources are sealed with.
SECRET = b"s" * 32


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server that the test may do anything to; what it was told is on its disk."""
    with valkey_server(durable=True) as server:
        yield server


@pytest.fixture
async def state(valkey: Valkey) -> AsyncIterator[State]:
    prefix = f"{{{uuid.uuid4().hex}}}:"
    async with open_state(valkey.url, prefix=prefix, secret=SECRET) as opened:
        yield opened


@pytest.fixture
async def own_state(own_valkey: Valkey) -> AsyncIterator[State]:
    async with open_state(own_valkey.url) as opened:
        yield opened
