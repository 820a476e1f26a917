"""Options that several sub-commands share, and the settings that they make."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT_CONFIG = Path("config.toml")


#: What wins over environment and file (SPEC §8), each as argparse wants it.
FLAGS: Mapping[str, Mapping[str, Any]] = {
    "--config": {
        "type": Path,
        "metavar": "FILE",
        "help": "settings in TOML (default: ./config.toml where there is one)",
    },
    "--host": {"help": "address to listen on"},
    "--port": {"help": "port to listen on; 0 takes any that is free"},
    "--data-dir": {"metavar": "DIR", "help": "where everything local is kept"},
}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that make settings."""
    for flag, options in FLAGS.items():
        parser.add_argument(flag, **options)


def config_path(arguments: argparse.Namespace) -> Path | None:
    """The configuration file: the one named, else ``./config.toml`` if it exists."""
    given: Path | None = arguments.config
    if given is None and DEFAULT_CONFIG.is_file():
        return DEFAULT_CONFIG
    return given


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings by "section.key"; None where an option was not given."""
    return {
        "server.host": arguments.host,
        "server.port": arguments.port,
        "state.data_dir": arguments.data_dir,
    }
