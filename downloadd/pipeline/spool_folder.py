"""A temporary folder of this process's own, which takes up what dead processes left.

Its name is who the process is: leases are taken in it (``state/work.py``), so
that whoever finds the folder of a dead process knows which jobs it held.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from downloadd.errors import SpoolError


class SpoolFolder:
    """One process's folder, with one folder for each job in it. Made by ``spool_folder``.

    It is locked by its process, and the kernel gives the lock back however
    that ends: a folder that nobody holds is left over.
    """

    def __init__(self, parent: Path) -> None:
        #: Who this process is among all that share one Redis.
        self.owner = uuid.uuid4().hex
        self.path = parent / self.owner
        #: Whether it is left to the next process in any case, to tell that this one is gone.
        self.wanted = False
        self._parent = parent
        self._lock: int | None = None
        self._dead: list[Path] = []

    @property
    def dead(self) -> tuple[str, ...]:
        """The names of processes that died without tidying up."""
        return tuple(folder.name for folder in self._dead)

    def restore(self) -> None:
        """Make the folder, again where somebody has removed it. Blocks. ``SpoolError``."""
        with _usable(self._parent), _turn(self._parent):
            self._make()

    def forget_dead(self) -> None:
        """Remove the folders of the dead, when their jobs have been given free. Blocks."""
        for folder in self._dead:
            shutil.rmtree(folder, ignore_errors=True)
        self._dead.clear()

    def open(self) -> None:
        """Make the folder and move the jobs of the dead into it."""
        with _usable(self._parent), _turn(self._parent):
            others = [path for path in self._parent.iterdir() if path.is_dir()]
            self._make()
            for folder in others:
                if _is_free(folder):
                    self._adopt(folder)

    def close(self) -> None:
        """Give the folder up; with jobs in it, it is left to the next process."""
        with suppress(OSError), _turn(self._parent):
            for job in _jobs(self.path):
                with suppress(OSError):
                    job.rmdir()  # an empty one is worth nothing
            if not self.wanted and not _jobs(self.path):
                shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, exist_ok=True)
        self._unlock()
        self._lock = _open_lock(self.path)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _adopt(self, folder: Path) -> None:
        for job in _jobs(folder):
            mine = self.path / job.name
            if mine.exists():  # several have worked on it; who was last has the most
                older = mine if _changed(mine) < _changed(job) else job
                shutil.rmtree(older, ignore_errors=True)
            if job.exists():
                job.rename(mine)
        self._dead.append(folder)


@contextmanager
def spool_folder(parent: Path) -> Iterator[SpoolFolder]:
    """Make a folder in ``parent`` for the length of the context.

    Raises ``SpoolError`` where ``parent`` cannot be used.
    """
    folder = SpoolFolder(parent)
    try:
        folder.open()
        yield folder
    finally:
        folder.close()


@contextmanager
def _usable(parent: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise SpoolError(f"The temporary folder {parent} cannot be used: {exc.strerror}.") from exc


@contextmanager
def _turn(parent: Path) -> Iterator[None]:
    """One process at a time: a folder just made, and not locked yet, looks left over."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    turn = _open_lock(parent)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
    finally:
        os.close(turn)


def _is_free(folder: Path) -> bool:
    try:
        lock = _open_lock(folder)
    except FileNotFoundError:
        return False  # its process has just removed it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _jobs(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def _changed(folder: Path) -> float:
    return folder.stat().st_mtime


def _open_lock(folder: Path) -> int:
    return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
