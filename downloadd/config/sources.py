"""Where settings come from: the file, the environment, the command line.

Each source gives values as it found them, each with the name under which its
author knows it; nothing is checked here but that the setting exists.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from downloadd.errors import ConfigError

PREFIX = "DOWNLOADD_"

#: Names that other programs use for the same things, and how many of their
#: units make one of ours (None: taken as they are).
WELL_KNOWN: Mapping[str, tuple[str, int | None]] = {
    "PORT": ("server.port", None),
    "REDIS_URL": ("state.redis_url", None),
    "S3_ENDPOINT": ("storage.endpoint", None),
    "S3_PUBLIC_ENDPOINT": ("storage.public_endpoint", None),
    "S3_REGION": ("storage.region", None),
    "S3_BUCKET_NAME": ("storage.bucket", None),
    "S3_ACCESS_KEY_ID": ("storage.access_key_id", None),
    "S3_SECRET_ACCESS_KEY": ("storage.secret_access_key", None),
    "S3_FORCE_PATH_STYLE": ("storage.force_path_style", None),
    "SENTRY_DSN": ("telemetry.sentry_dsn", None),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("telemetry.otlp_endpoint", None),
    "REQUEST_TIMEOUT_MS": ("server.request_timeout", 1000),
    "RATE_LIMIT_WINDOW_MS": ("limits.window", 1000),
    "RATE_LIMIT_MAX_REQUESTS": ("limits.requests_per_minute", None),
    "CORS_ORIGINS": ("server.cors_origins", None),
    "DOWNLOAD_DELAY_ENABLED": ("simulation.enabled", None),
    "DOWNLOAD_DELAY_MIN_MS": ("simulation.min_ms", None),
    "DOWNLOAD_DELAY_MAX_MS": ("simulation.max_ms", None),
}

# Kubernetes puts the address of every service of a namespace into each pod; a
# service whose name begins with "downloadd" gives variables of these forms. The
# last one is what somebody might call a setting, so its value has to look it too.
_SERVICE_LINK = re.compile(
    r"DOWNLOADD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)=.*"
    r"|DOWNLOADD_(\w+_)?PORT=(tcp|udp|sctp)://.*",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """One value as somebody gave it."""

    value: object
    #: As it was written, for messages.
    written: object
    #: How its author knows it: "server.port in config.toml", "PORT", "--port".
    name: str
    kind: Literal["file", "environment", "flag"]


def from_file(path: Path, known: Collection[str]) -> dict[str, Given]:
    """Read a TOML file; keys are "section.key". ``ConfigError``."""
    sections = {name.partition(".")[0] for name in known}
    given = {}
    for section, table in _parse(path).items():
        if section not in sections:
            raise ConfigError(f"[{section}] in {path} is no section{_hint(section, sections)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{section} in {path} is a section: write [{section}]")
        for key, value in table.items():
            name = f"{section}.{key}"
            if name not in known:
                raise ConfigError(f"{name} in {path} is no setting{_hint(name, known)}")
            origin = f"{name} in {path}"
            given[name] = Given(value=value, written=value, name=origin, kind="file")
    return given


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    # Also for bytes that are no text, and numbers of thousands of digits.
    except ValueError as exc:
        raise ConfigError(f"{path} is not proper TOML: {exc}") from exc


def from_environment(
    environ: Mapping[str, str],
    known: Collection[str],
    secrets: Collection[str],
) -> dict[str, Given]:
    """Read the variables that are ours. An empty one counts as unset. ``ConfigError``.

    ``DOWNLOADD_…`` wins over the well-known names. A secret's variable may end
    in ``_FILE`` instead, and then names the file that holds it.
    """
    own = {PREFIX + name.replace(".", "_").upper(): name for name in known}
    _refuse_unknown(environ, own, secrets)
    given = {}
    for variable, name, scale in _variables(own):
        if (found := _lookup(environ, variable, secret=name in secrets)) is None:
            continue
        called, text = found
        value = text if scale is None else _scaled(called, text, scale)
        given[name] = Given(value=value, written=text, name=called, kind="environment")
    return given


def _variables(own: Mapping[str, str]) -> Iterator[tuple[str, str, int | None]]:
    for variable, (name, scale) in WELL_KNOWN.items():
        yield variable, name, scale
    for variable, name in own.items():
        yield variable, name, None


def _refuse_unknown(
    environ: Mapping[str, str],
    own: Mapping[str, str],
    secrets: Collection[str],
) -> None:
    names = {*own, *(f"{variable}_FILE" for variable, name in own.items() if name in secrets)}
    for variable, value in sorted(environ.items()):
        if variable.startswith(PREFIX) and variable not in names:
            if _SERVICE_LINK.fullmatch(f"{variable}={value}"):
                continue
            raise ConfigError(f"{variable} is no setting{_hint(variable, names)}")


def _lookup(environ: Mapping[str, str], name: str, *, secret: bool) -> tuple[str, str] | None:
    """Return a variable's name and text, or those of the file it names."""
    text = environ.get(name) or None
    path = (environ.get(f"{name}_FILE") or None) if secret else None
    if path is None:
        return None if text is None else (name, text)
    if text is not None:
        raise ConfigError(f"{name} and {name}_FILE are both set: keep one of them")
    return f"{name}_FILE", _read_secret(f"{name}_FILE", Path(path))


def _read_secret(name: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigError(f"{name} is {path}, which cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{name} is {path}, which is not UTF-8 text") from exc
    if not text:
        raise ConfigError(f"{name} is {path}, which is empty: it must hold the secret")
    return text


def _scaled(variable: str, text: str, scale: int) -> float:
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f'{variable} is "{text}": it must be a whole number of milliseconds')
    # Too many digits for a float make infinity, which no setting allows.
    return float(text) / scale


def from_flags(overrides: Mapping[str, Any], known: Collection[str]) -> dict[str, Given]:
    """Take what the command line says, by "section.key"; None is a flag not given."""
    given = {}
    for name, value in overrides.items():
        if name not in known:
            raise ConfigError(f"{name} is no setting{_hint(name, known)}")
        if value is not None:
            flag = "--" + name.partition(".")[2].replace("_", "-")
            given[name] = Given(value=value, written=value, name=flag, kind="flag")
    return given


def _hint(word: str, words: Collection[str]) -> str:
    close = difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.6)
    if not close and "." in word:  # the right key in the wrong section
        key = word.partition(".")[2]
        close = [name for name in sorted(words) if name.partition(".")[2] == key]
    return f": did you mean {close[0]}?" if close else ""
