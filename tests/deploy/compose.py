"""``compose.yaml`` as Compose reads it: variables put in, then YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "compose.yaml"

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?[-?])(?P<then>[^}]*))?\})"
)


class Unset(Exception):
    """A variable that is asked for with ``:?`` is not there."""


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """Put variables in, by the forms of the Compose specification that the file uses."""

    def value(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        found = environ.get(match["name"], "")
        if found:
            return found
        if match["how"] == ":-":
            return match["then"]
        assert match["how"] == ":?", f"{match[0]} is neither required nor has a default"
        raise Unset(f"{match['name']}: {match['then']}")

    return _VARIABLE.sub(value, text)


def code(text: str) -> str:
    """The file without its comments."""
    return re.sub(r"(?m)^\s*#.*$", "", text)


def load(environ: Mapping[str, str]) -> dict[str, Any]:
    """The file, with variables put in: as Compose does it, into texts, after YAML was read."""

    def put_in(value: Any) -> Any:
        match value:
            case str():
                return interpolate(value, environ)
            case list():
                return [put_in(one) for one in value]
            case dict():
                return {name: put_in(one) for name, one in value.items()}
            case _:
                return value

    loaded: dict[str, Any] = put_in(yaml.safe_load(FILE.read_text("utf-8")))
    return loaded


def variables() -> dict[str, set[str]]:
    """Of each variable, how it is asked for: ``:-`` and its default, or ``:?``."""
    found: dict[str, set[str]] = {}
    for match in _VARIABLE.finditer(code(FILE.read_text("utf-8"))):
        if not match["dollar"]:
            how = match["how"]
            said = how if how == ":?" else f"{how}{match['then']}"
            found.setdefault(match["name"], set()).add(said)
    return found


def env_file(path: Path) -> dict[str, str]:
    """What a file such as .env sets."""
    return dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", path.read_text("utf-8"), re.MULTILINE))
