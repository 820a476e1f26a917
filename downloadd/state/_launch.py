"""Become the server, tied to the life of the process that asked for it.

Run as a file: ``python _launch.py PARENT_PID PROGRAM ARGUMENT...``. It stands
between because what it does must be done in the child before ``exec``, and
Python code between fork and exec is not safe in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, command: list[str]) -> None:
    """Ask for SIGTERM at the parent's death (Linux), then replace this process."""
    os.umask(0o077)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            # It died before it could be watched.
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the program is the caller's


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
