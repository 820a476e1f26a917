"""The corpora of hostile things beside this module: one case a line, its source above it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def lines(name: str) -> list[str]:
    """The lines of a corpus that are no comments."""
    text = (_HERE / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def cases(name: str) -> list[Any]:
    """The cases of a corpus, which are JSON; none is there twice."""
    found = lines(name)
    assert len(set(found)) == len(found), name
    return [json.loads(line) for line in found]
