"""The command line: one module a sub-command, each with ``add_parser`` and a ``run``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from downloadd import __version__
from downloadd.cli import check_config, demo, get, keys, serve
from downloadd.errors import ConfigError, DownloaddError

#: Each has ``add_parser(subparsers)``, which sets ``run`` to a function from
#: the parsed arguments to the exit status.
COMMANDS = (serve, get, demo, check_config, keys)

EXIT_FAILED = 1
EXIT_WRONG_SETTING = 2
#: As shells have it for a program that SIGINT ended.
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status. Errors of ours are one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return _stop_writing()
    except ConfigError as exc:
        return _complain(exc, EXIT_WRONG_SETTING)
    except DownloaddError as exc:
        return _complain(exc, EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return status


def _stop_writing() -> int:
    """Whoever read the output has had enough: ``downloadd check-config | head``."""
    # Python flushes once more at its end (its documentation, "Note on SIGPIPE").
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILED


def _complain(exc: DownloaddError, status: int) -> int:
    print(f"downloadd: {exc.message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="downloadd",
        description="All these files as one download: fetch, verify, pack, upload, a signed link.",
    )
    parser.add_argument("--version", action="version", version=f"downloadd {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser
