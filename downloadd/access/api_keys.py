"""API keys: random, shown once, kept as their hash (SPEC §7).

A key is ``dk_<id>_<secret>``. The secret has 256 bits, so a plain SHA-256 of
it can be neither guessed nor reversed; a slow hash is for what people think up.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from downloadd.access.caller import Caller, is_user_name
from downloadd.access.files import Watched, key_list
from downloadd.errors import ConfigError, Unauthorized
from downloadd.model import Record

_KEY = re.compile(r"dk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_FIELDS = frozenset({"id", "user", "role", "sha256", "created_at", "expires_at"})
_UNKNOWN = "The API key is not known here."


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey(Record):
    """What is kept of a key."""

    #: Names it, in lists and when it is revoked; no secret.
    id: str
    user: str
    role: str
    #: Of the whole key, hex.
    sha256: str
    #: Seconds since the epoch.
    created_at: float
    expires_at: float | None = None


class ApiKeys:
    """``access.Authenticator`` over a file of keys; changes count within a second."""

    def __init__(self, path: Path, roles: Sequence[str], now: Callable[[], float] = time.time):
        """``ConfigError`` where the file cannot be read, or names a role that is none."""
        if not path.exists():
            raise ConfigError(
                f"There are no API keys: {path} is not there. "
                "Make one with: downloadd keys add --user NAME."
            )
        self._file = Watched(path, lambda raw: {key.id: key for key in parse(raw, roles)})
        self._now = now

    async def identify(self, credential: str) -> Caller:
        """See ``access.Authenticator``."""
        found = _KEY.fullmatch(credential)
        keys = await self._file.get()
        key = keys.get(found[1]) if found else None
        # Whether an id exists is no secret; which secret goes with it is, so
        # that comparison takes the same time wherever they differ.
        if key is None or not hmac.compare_digest(key.sha256, digest(credential)):
            raise Unauthorized(_UNKNOWN)
        if key.expires_at is not None and key.expires_at <= self._now():
            raise Unauthorized("The API key has expired.")
        return Caller(user=key.user, role=key.role)


def digest(key: str) -> str:
    """What is kept of a key: its SHA-256, hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def add(path: Path, *, user: str, role: str, now: float, expires_at: float | None = None) -> str:
    """Make a key, keep its hash in the file, and return it: it is never to be seen again."""
    key_id = secrets.token_hex(6)
    text = f"dk_{key_id}_{secrets.token_urlsafe(32)}"
    kept = ApiKey(
        id=key_id,
        user=user,
        role=role,
        sha256=digest(text),
        created_at=now,
        expires_at=expires_at,
    )
    with _changing(path) as keys:
        keys.append(kept)
    return text


def revoke(path: Path, key_id: str) -> ApiKey:
    """Take a key out of the file. ``ConfigError`` where there is none with this id."""
    with _changing(path) as keys:
        for key in keys:
            if key.id == key_id:
                keys.remove(key)
                return key
        raise ConfigError(f"There is no key {key_id} in {path}; see downloadd keys list.")


def read(path: Path) -> list[ApiKey]:
    """The keys in a file, none where there is no file. ``ConfigError``."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}.") from exc
    except ValueError as exc:
        raise ConfigError(f"{path} is not a file of API keys: {exc}.") from exc


def parse(raw: bytes, roles: Sequence[str] | None = None) -> list[ApiKey]:
    """Read a file's bytes; ``ValueError`` for what is none. ``roles``: those that there are."""
    keys = [_parse_key(entry) for entry in key_list(raw)]
    if len({key.id for key in keys}) != len(keys):
        raise ValueError("an id is there twice")
    for key in keys:
        if roles is not None and key.role not in roles:
            raise ValueError(f"the role {key.role!r} of key {key.id} is not one of auth.roles")
    return keys


def _parse_key(entry: object) -> ApiKey:
    if not isinstance(entry, dict) or not entry.keys() <= _FIELDS:
        raise ValueError("a key has other fields than it should")
    try:
        key = ApiKey(**entry)
    except TypeError as exc:
        raise ValueError("a key lacks a field") from exc
    texts = (key.id, key.role, key.sha256)
    if not all(isinstance(text, str) for text in texts) or not is_user_name(key.user):
        raise ValueError("a field of a key is not what it should be")
    if not re.fullmatch(r"[0-9a-f]{64}", key.sha256):
        raise ValueError(f"the hash of key {key.id} is no SHA-256")
    if not (_is_time(key.created_at) and (key.expires_at is None or _is_time(key.expires_at))):
        raise ValueError(f"a time of key {key.id} is no number")
    return key


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(cast("float", value))


@contextmanager
def _changing(path: Path) -> Iterator[list[ApiKey]]:
    """Give the file's keys to be changed; written whole, or not at all. ``ConfigError``."""
    try:
        # Where the file is a link, what it leads to is changed.
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = read(path)
            yield keys
            _write(path, {"keys": [asdict(key) for key in keys]})
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}.") from exc


def _write(path: Path, document: Mapping[str, object]) -> None:
    draft = path.with_name(f".{path.name}.draft")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        if path.exists():
            # As it was: a server may run as somebody else, and has to read it.
            was = path.stat()
            os.fchown(file.fileno(), was.st_uid, was.st_gid)
            os.fchmod(file.fileno(), was.st_mode & 0o777)
        json.dump(document, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
