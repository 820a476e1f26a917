"""Kill the process that it is loaded into, as kill -9, before a step of its in a folder.

Python loads this module at its start when it lies on the path. The environment
says what it does; without ``AUDIT_FOLDER`` nothing:

    AUDIT_FOLDER    steps below this folder count
    AUDIT_ARMED     from the moment when there is this file
    AUDIT_LOG       a line for each step is appended to this file
    AUDIT_KILL      the number, from 1, of the step before which the process is killed
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

_CHANGES = {"os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


class _Audit:
    def __init__(self, folder: str) -> None:
        self._folder = os.path.join(os.path.realpath(folder), "")
        self._armed = os.environ["AUDIT_ARMED"]
        self._kill = int(os.environ.get("AUDIT_KILL") or 0)
        self._log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._steps = 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not writes and event not in _CHANGES:
            return
        folder_fd = args[-1] if event in ("os.remove", "os.rmdir") else -1
        path = _path(args[0], folder_fd)
        if not path.startswith(self._folder) or not os.path.exists(self._armed):
            return
        self._steps += 1
        os.write(self._log, f"{event} {path.removeprefix(self._folder)}\n".encode())
        if self._steps == self._kill:
            os.kill(os.getpid(), signal.SIGKILL)


def _path(given: Any, folder_fd: int) -> str:
    if isinstance(given, int):
        return os.readlink(f"/proc/self/fd/{given}")
    path = os.fsdecode(given)
    if folder_fd >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder_fd}"), path)
    return path


if os.environ.get("AUDIT_FOLDER"):
    sys.addaudithook(_Audit(os.environ["AUDIT_FOLDER"]))
