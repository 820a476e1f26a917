"""The start of ``downloadd serve``: where it listens."""

from __future__ import annotations

import pytest

from downloadd.cli.serve import bind
from downloadd.errors import DownloaddError


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_name_that_no_resolver_takes(host: str) -> None:
    """A host that cannot even be looked up is a sentence with its name, not a traceback."""
    with pytest.raises(DownloaddError, match=f"Cannot listen on {host} port 0: "):
        bind(host, 0)
