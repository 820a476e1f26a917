"""What tests of hostility share with those of the web."""

from __future__ import annotations

from tests.integration.web.conftest import origin, server, start, valkey

__all__ = ["origin", "server", "start", "valkey"]
