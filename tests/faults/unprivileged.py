"""Run Python with these arguments as somebody to whom the modes of files apply.

Root reads and writes whatever a mode says; without two capabilities it is an
owner like any other. As a program: ``python unprivileged.py -m module …``.
"""

from __future__ import annotations

import ctypes
import os
import sys

# From linux/prctl.h and linux/capability.h.
_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2

if __name__ == "__main__":
    if os.geteuid() == 0:
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            if ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
                sys.exit("cannot give up root's right to ignore modes")
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
