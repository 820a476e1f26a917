"""Files that are read again when somebody has changed them, without a restart."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from downloadd.errors import ConfigError

_log = structlog.get_logger(__name__)

#: Seconds between two looks at whether a file has changed.
CHECK_SECONDS = 1.0

_T = TypeVar("_T")


class Watched(Generic[_T]):
    """What a file says; one that has become unreadable counts as it was before.

    Making it raises ``ConfigError`` where the file cannot be read.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], _T], *, check: float = CHECK_SECONDS):
        """``parse`` raises ``ValueError`` for what it cannot read; ``check`` is seconds."""
        self._path = path
        self._parse = parse
        self._check = check
        self._stamp = self._failed = _stamp(path)
        self._value = self._read()
        self._looked_at = time.monotonic()

    async def get(self) -> _T:
        """The value of now, as of ``check`` seconds ago at the earliest."""
        if time.monotonic() - self._looked_at >= self._check:
            self._looked_at = time.monotonic()
            await asyncio.to_thread(self._look)
        return self._value

    def _look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            self._value = self._read()
        except ConfigError as exc:
            # Tried again each time, and told once for each change.
            if stamp != self._failed:
                _log.error("auth.file_unreadable", path=str(self._path), reason=exc.message)
            self._failed = stamp
        else:
            _log.info("auth.file_read", path=str(self._path))
            self._stamp = stamp

    def _read(self) -> _T:
        try:
            return self._parse(self._path.read_bytes())
        except OSError as exc:
            raise ConfigError(f"{self._path} cannot be read: {exc.strerror}.") from exc
        except ValueError as exc:
            raise ConfigError(f"{self._path} is not what it should be: {exc}.") from exc


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    # The last is of when it was given to somebody else, too.
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


def key_list(raw: bytes) -> list[Any]:
    """What ``{"keys": [...]}`` lists; ``ValueError`` for anything else."""
    try:
        document = json.loads(raw)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError('it is not {"keys": [...]}')  # noqa: TRY004 - a file, not an argument
    return entries
