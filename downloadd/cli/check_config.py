"""``downloadd check-config``: which settings are in force, and who says so."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from downloadd.cli import options
from downloadd.config import SETTINGS, Loaded, Settings, trace, value_of

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "check-config",
        help="print the settings in force, secrets masked",
        description=(
            "Print the settings in force as TOML, secrets masked; a comment says who gave "
            "each that is not the default. Exit status 2 where a setting is wrong."
        ),
    )
    options.add_settings(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the settings in force. ``ConfigError`` where one is wrong."""
    path, flags = options.config_path(arguments), options.overrides(arguments)
    for line in lines(trace(path, os.environ, flags)):
        print(line)
    return 0


def lines(loaded: Loaded) -> Iterator[str]:
    """Yield settings as TOML, each with its origin where somebody gave it."""
    section = ""
    for name, kind in SETTINGS.items():
        here, _, key = name.partition(".")
        if here != section:
            yield f"\n[{here}]" if section else f"[{here}]"
            section = here
        value = toml(kind.show(value_of(loaded.settings, name)))
        comment = _comment(loaded, name)
        yield f"{key} = {value}{f'  # {comment}' if comment else ''}"


def _comment(loaded: Loaded, name: str) -> str | None:
    if value_of(loaded.settings, name) == value_of(loaded.defaults, name):
        return _made_at_the_start(loaded.settings, name)
    given = loaded.given.get(name)
    if given is None or given.value == "auto":
        return "because storage.bucket is set"
    return given.name if given.kind == "file" else f"{given.kind}: {given.name}"


def _made_at_the_start(settings: Settings, name: str) -> str | None:
    """What comes of it that no secret was given."""
    state = settings.state
    kept = {
        "webhooks.secret": (state.webhook_secret_path, "callback_url is refused until it is set"),
        "state.secret_key": (state.secret_key_path, "headers are refused until it is set"),
    }
    if name not in kept:
        return None
    path, without = kept[name]
    if state.redis_url:
        return without
    shown = json.dumps(str(path), ensure_ascii=False)
    return f"one is made at the start and kept in {shown}"


def toml(value: object) -> str:
    """Write a value on one line as TOML 1.0 has it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # A basic string is a JSON string, but for DEL, which has to be escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(toml(item) for item in value)}]"
        case dict():
            pairs = (f"{_key(str(key))} = {toml(item)}" for key, item in value.items())
            return f"{{{', '.join(pairs)}}}"
        case _:
            return str(value)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else toml(key)
