"""The installed program among others on a command line."""

import os
import subprocess
import sys


def test_a_reader_that_stops_early_is_no_error_to_show() -> None:
    """``downloadd check-config | head -1`` ends without a traceback."""
    read, write = os.pipe()
    os.close(read)  # gone before the first line
    try:
        result = subprocess.run(
            [sys.executable, "-m", "downloadd", "check-config"],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=30,
        )
    finally:
        os.close(write)
    assert result.returncode == 1
    assert result.stderr == b""
