"""The name of this installation, by which it knows its own in a storage shared with others."""

from __future__ import annotations

import secrets

from downloadd.state.client import Client, Script
from downloadd.state.keys import Keys

_NAME = Script.load("installation")


class Installation:
    """A random name, kept in Redis and remembered by each process.

    A Redis that has lost it is given it again by whichever process comes first.
    """

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._name: str | None = None

    async def name(self) -> str:
        """The name as it is remembered; Redis is asked the first time alone."""
        return self._name or await self.confirm()

    async def confirm(self) -> str:
        """The name as Redis has it now, made where it has none."""
        proposal = self._name or secrets.token_hex(8)
        self._name = str(await self._client.run(_NAME, [self._keys.installation], [proposal]))
        return self._name
