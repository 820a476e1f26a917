"""What the operating system says about the temporary disk, in our words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from downloadd.errors import SpoolError


@contextmanager
def disk_errors() -> Iterator[None]:
    """Translate ``OSError`` into ``SpoolError``."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpoolError("The server's temporary disk is full; try again later.") from exc
        raise SpoolError(f"The server's temporary folder failed: {exc.strerror}.") from exc
