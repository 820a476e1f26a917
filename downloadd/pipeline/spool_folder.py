"""A temporary folder of this process's own, and an end to those of processes that were killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from downloadd.errors import SpoolError


@contextmanager
def spool_folder(parent: Path) -> Iterator[Path]:
    """Make a folder in ``parent`` for the length of the context.

    Each is locked by its process, and the kernel gives the lock back however
    that ends: a folder that nobody holds is left over and is removed. Raises
    ``SpoolError`` where ``parent`` cannot be used.
    """
    try:
        folder, lock = _make(parent)
    except OSError as exc:
        raise SpoolError(f"The temporary folder {parent} cannot be used: {exc.strerror}.") from exc
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make(parent: Path) -> tuple[Path, int]:
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One at a time: a folder just made, and not locked yet, looks left over.
    turn = _open_lock(parent)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for left in parent.iterdir():
            if left.is_dir():
                _remove_if_free(left)
        folder = Path(tempfile.mkdtemp(dir=parent))
        lock = _open_lock(folder)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return folder, lock
    finally:
        os.close(turn)


def _remove_if_free(folder: Path) -> None:
    try:
        lock = _open_lock(folder)
    except FileNotFoundError:
        return  # its process has just removed it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(lock)


def _open_lock(folder: Path) -> int:
    return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
