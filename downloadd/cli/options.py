"""Options that several sub-commands share, and the settings that they make."""

from __future__ import annotations

import argparse
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from downloadd.errors import ConfigError

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
    """The configuration file: the one named, else ``./config.toml`` if it exists.

    ``ConfigError`` where that cannot be told, such as in somebody else's folder.
    """
    given: Path | None = arguments.config
    if given is not None:
        return given
    try:
        mode = DEFAULT_CONFIG.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ConfigError(
            f"./{DEFAULT_CONFIG} cannot be looked at ({exc.strerror}): "
            "name a file with --config, or go to another folder",
        ) from exc
    return DEFAULT_CONFIG if stat.S_ISREG(mode) else None


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings by "section.key"; None where an option was not given."""
    return {
        "server.host": arguments.host,
        "server.port": arguments.port,
        "state.data_dir": arguments.data_dir,
    }
