"""The servers and folders of the end-to-end tests; here they are killed."""

from __future__ import annotations

from tests.e2e.conftest import folder, gateway, origin, service, storage

__all__ = ["folder", "gateway", "origin", "service", "storage"]
