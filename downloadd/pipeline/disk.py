"""The temporary disk: what the operating system says of it in our words, and removals."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from downloadd.errors import SpoolError

log = structlog.get_logger(__name__)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Translate ``OSError`` into ``SpoolError``."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpoolError("The server's temporary disk is full; try again later.") from exc
        raise SpoolError(f"The server's temporary folder failed: {exc.strerror}.") from exc


def remove_sync(*paths: Path) -> None:
    """Remove files that may be there. What the disk does not give up goes with its folder later."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("spool.not_removed", file=path.name, error=exc.strerror)
