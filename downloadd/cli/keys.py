"""``downloadd keys``: API keys, for ``auth.mode = "api-keys"``."""

from __future__ import annotations

import argparse
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from downloadd.access import api_keys
from downloadd.access.caller import is_user_name
from downloadd.cli.options import add_settings, config_path, overrides
from downloadd.config import Settings, load
from downloadd.errors import CommandError, ConfigError

DAY = 86400


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``keys`` and what it can do to the command line."""
    parser = subparsers.add_parser("keys", help="API keys: add, list, revoke", description=__doc__)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add = actions.add_parser("add", help="make a key and print it, once")
    add.add_argument("--user", required=True, help="whose key it is")
    add.add_argument("--role", help="one of auth.roles (default: the first)")
    add.add_argument("--days", type=float, help="for how long it is good (default: for good)")
    add.set_defaults(run=_add)
    listed = actions.add_parser("list", help="print what is known of the keys: not the keys")
    listed.set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="make a key worthless, within a second")
    revoke.add_argument("id", help="as list has it: the part of a key between dk_ and _")
    revoke.set_defaults(run=_revoke)
    for action in (add, listed, revoke):
        add_settings(action)
        action.add_argument("--file", type=Path, help="the keys' file (auth.api_keys_file)")


def _settings(arguments: argparse.Namespace) -> tuple[Settings, Path]:
    given = {**overrides(arguments), "auth.api_keys_file": arguments.file}
    settings = load(config_path(arguments), os.environ, given)
    return settings, settings.api_keys_file


def _add(arguments: argparse.Namespace) -> int:
    settings, path = _settings(arguments)
    role = settings.auth.roles[0] if arguments.role is None else arguments.role
    if role not in settings.auth.roles:
        raise ConfigError(f"--role is {role!r}: it must be one of {', '.join(settings.auth.roles)}")
    if not is_user_name(arguments.user):
        raise ConfigError("--user is empty, too long, or has control characters")
    if arguments.days is not None and not 0 < arguments.days < 100_000:
        raise ConfigError(f"--days is {arguments.days:g}: it must be above 0 and below 100000")
    now = time.time()
    expires_at = None if arguments.days is None else now + arguments.days * DAY
    print(api_keys.add(path, user=arguments.user, role=role, now=now, expires_at=expires_at))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    _, path = _settings(arguments)
    print(f"{'ID':12}  {'CREATED':10}  {'EXPIRES':10}  {'ROLE':10}  USER")
    for key in api_keys.read(path):
        expires = "never" if key.expires_at is None else _day(key.expires_at)
        print(f"{key.id:12}  {_day(key.created_at)}  {expires:10}  {key.role:10}  {key.user}")
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    _, path = _settings(arguments)
    try:
        key = api_keys.revoke(path, arguments.id)
    except ConfigError as exc:
        raise CommandError(exc.message) from exc
    print(f"{key.id} of {key.user} is revoked")
    return 0


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
