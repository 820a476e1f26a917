"""What tests of hostility share with those of the web, and how many cases there were."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.web.conftest import origin, server, start, valkey

__all__ = ["origin", "server", "start", "valkey"]


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Say how many cases a corpus has; ``tests/conftest.py`` prints it at the end."""

    def say(what: str, count: int) -> None:
        request.node.user_properties.append(("hostile", f"{what}: {count}"))

    return say
