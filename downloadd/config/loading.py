"""Settings from all sources, checked one by one and then together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import marshmallow

from downloadd.config import sources
from downloadd.config.fields import MASK, Setting
from downloadd.config.samples import is_loopback, refuse_samples
from downloadd.config.sections import Settings
from downloadd.config.sources import Given
from downloadd.errors import ConfigError

_SECTIONS: Mapping[str, type] = get_type_hints(Settings)


def _kinds(section: type) -> dict[str, Setting]:
    hints = get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(section)}


#: How each setting is read and shown, by "section.key", in the order of the file.
SETTINGS: Mapping[str, Setting] = {
    f"{name}.{key}": kind
    for name, section in _SECTIONS.items()
    for key, kind in _kinds(section).items()
}

_SCHEMAS: Mapping[str, marshmallow.Schema] = {
    name: marshmallow.Schema.from_dict(dict(_kinds(section)))()
    for name, section in _SECTIONS.items()
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Settings, and who gave each of those that somebody gave."""

    settings: Settings
    #: By "section.key".
    given: Mapping[str, Given]
    defaults: Settings


def load(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any],
) -> Settings:
    """Return the settings in force: flags, else environment, else file, else default.

    ``overrides`` are by "section.key"; None stands for a flag not given.
    Raises ``ConfigError`` whose one line names the setting, the value and what
    is allowed.
    """
    return trace(path, environ, overrides).settings


def trace(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any],
) -> Loaded:
    """As ``load``, and say where each value comes from."""
    known = SETTINGS.keys()
    secrets = {name for name, kind in SETTINGS.items() if kind.secret}
    given = sources.from_file(path, known) if path is not None else {}
    given |= sources.from_environment(environ, known, secrets)
    given |= sources.from_flags(overrides, known)
    defaults = _build({}, environ)
    settings = _build(given, environ)
    _check_together(settings, given)
    return Loaded(settings=settings, given=given, defaults=defaults)


def value_of(settings: Settings, name: str) -> Any:
    """Return the value of "section.key"."""
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)


def _build(given: Mapping[str, Given], environ: Mapping[str, str]) -> Settings:
    values = {name: _section_values(name, given) for name in _SECTIONS}
    storage, state = values["storage"], values["state"]
    if storage.get("kind", "auto") == "auto":
        storage["kind"] = "s3" if storage.get("bucket") else "local"
    if state.get("data_dir") is None:
        state["data_dir"] = _default_data_dir(environ)
    return Settings(**{name: make(**values[name]) for name, make in _SECTIONS.items()})


def _section_values(section: str, given: Mapping[str, Given]) -> dict[str, Any]:
    raw = {
        name.partition(".")[2]: one.value
        for name, one in given.items()
        if name.startswith(f"{section}.")
    }
    try:
        values: dict[str, Any] = _SCHEMAS[section].load(raw)
    except marshmallow.ValidationError as exc:
        key = next(key for key in raw if key in exc.messages_dict)
        name = f"{section}.{key}"
        allowed = SETTINGS[name].allowed
        raise ConfigError(f"{_said(name, given)}: it must be {allowed}") from exc
    return values


def _said(name: str, given: Mapping[str, Given]) -> str:
    """Name a setting and its value as its author did; a secret's value is masked."""
    one = given[name]
    text = json.dumps(one.written, default=str, ensure_ascii=False)
    # A URL that is refused for its credentials must not be repeated either.
    return f"{one.name} is {MASK if SETTINGS[name].secret or '@' in text else text}"


def _default_data_dir(environ: Mapping[str, str]) -> Path:
    """As the XDG base directory specification says: relative paths are ignored."""
    data_home = Path(environ.get("XDG_DATA_HOME", ""))
    if not data_home.is_absolute():
        data_home = _home(environ) / ".local" / "share"
    return data_home / "downloadd"


def _home(environ: Mapping[str, str]) -> Path:
    """The home folder; one that cannot be used for a user id that nobody has, as in containers."""
    if home := environ.get("HOME"):
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:
        return Path("/nonexistent")


def _check_together(settings: Settings, given: Mapping[str, Given]) -> None:
    storage, simulation = settings.storage, settings.simulation
    if storage.kind == "s3" and not storage.bucket:
        raise ConfigError(f"{_said('storage.kind', given)}: storage.bucket must name the bucket")
    if bool(storage.access_key_id) != bool(storage.secret_access_key):
        raise ConfigError(
            "storage.access_key_id and storage.secret_access_key go together: "
            "give both (S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY) or neither",
        )
    if simulation.min_ms > simulation.max_ms:
        raise ConfigError(
            f"simulation.min_ms is {simulation.min_ms}: "
            f"it must not be above simulation.max_ms, {simulation.max_ms}",
        )
    _check_data_dir(settings.state.data_dir)
    _check_auth(settings, given)
    _check_roles(settings)
    refuse_samples(settings)


def _check_auth(settings: Settings, given: Mapping[str, Given]) -> None:
    auth = settings.auth
    if auth.mode == "none":
        if not auth.allow_anonymous:
            _check_loopback(settings.server.host, given)
        return
    if auth.mode == "jwt" and bool(auth.jwt_key) == bool(auth.jwt_jwks_file):
        raise ConfigError(
            f"{_said('auth.mode', given)}: give auth.jwt_key or auth.jwt_jwks_file, one of them"
        )
    if settings.state.redis_url and not settings.state.secret_key:
        raise ConfigError(
            f"{_said('auth.mode', given)}: with state.redis_url, which servers may share, "
            "state.secret_key must be set, the same for all: it signs the tokens that "
            "browsers watch jobs with. openssl rand -base64 32 makes one"
        )


def _check_roles(settings: Settings) -> None:
    """Refuse limits of a role that nobody can have: they would protect from nobody."""
    if "anonymous" in settings.auth.roles:
        raise ConfigError('auth.roles has "anonymous", which is the role of those without a name')
    limits = settings.limits
    roles = {"anonymous"} if settings.auth.mode == "none" else set(settings.auth.roles)
    known = ", ".join(sorted({"anonymous", *settings.auth.roles}))
    for name, table in (("priorities", limits.priorities), ("quotas", limits.quotas)):
        for role in table:
            if role not in {*settings.auth.roles, *roles}:
                raise ConfigError(f"limits.{name} has {json.dumps(role)}: the roles are {known}")


def _check_data_dir(folder: Path) -> None:
    """Refuse a default that the home folder spoils; one that was given is checked already."""
    try:
        str(folder).encode()
    except UnicodeEncodeError as exc:
        raise ConfigError(
            f"state.data_dir is {json.dumps(str(folder))}, by XDG_DATA_HOME or HOME: "
            "it must be a path in UTF-8; set another",
        ) from exc


def _check_loopback(host: str, given: Mapping[str, Given]) -> None:
    if not is_loopback(host):
        raise ConfigError(
            f'{_said("server.host", given)}: with auth.mode "none" everybody who reaches it '
            "may use this server, so it listens on 127.0.0.1, ::1 or localhost alone; "
            "set auth.allow_anonymous = true (DOWNLOADD_AUTH_ALLOW_ANONYMOUS=true) "
            "where something before it decides who comes in",
        )
