"""What lies in a folder that somebody else is at work in."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def file_sizes(folder: Path) -> dict[Path, int]:
    """The bytes of each file in a folder and those below it, without what goes meanwhile."""
    sizes: dict[Path, int] = {}
    # Unlike ``Path.rglob``, it passes over a folder that is gone when its turn comes.
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):
                sizes[path] = path.stat().st_size
    return sizes
