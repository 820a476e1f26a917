"""Secrets that everybody knows: those of examples, manuals and first attempts.

They are taken on one's own machine, where trying things out is what they are
for, and refused as soon as the server can be reached from elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from downloadd.config.sections import Settings
from downloadd.errors import ConfigError

#: What manuals and images call their first users and passwords, in small letters.
_KNOWN = frozenset(
    {
        *("minioadmin", "minio", "minio123", "minio-root-password", "minio-secret-key"),
        *("admin", "administrator", "root", "user", "test", "guest", "default"),
        *("password", "passw0rd", "password123", "secret", "123456", "12345678", "letmein"),
        *("redis", "valkey", "foobared", "downloadd", "access-key", "secret-key"),
        # Amazon's manuals, and the two secrets of jwt.io's form.
        "wjalrxutnfemi/k7mdeng/bpxrficyexamplekey",
        *("your-256-bit-secret", "a-string-secret-at-least-256-bits-long"),
    }
)
#: User names that come with one password only; others may be anybody's.
_KNOWN_USERS = frozenset({"minioadmin", "akiaiosfodnn7example"})
#: What stands in examples for something to be filled in; .env.example is full of it.
_TO_FILL_IN = re.compile(
    r"change[-_ ]?(?:me|this|it)|replace[-_ ]?(?:me|this)|your[-_ ]secret|<.+>"
)


def is_public(settings: Settings) -> bool:
    """Whether others than this machine may reach the server, by its address or its URL."""
    server = settings.server
    return not is_loopback(server.host) or bool(
        server.public_url and not is_loopback(urlsplit(server.public_url).hostname or "")
    )


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine to itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def refuse_samples(settings: Settings) -> None:
    """Raise ``ConfigError`` for a server that others reach with a secret that they know."""
    if not is_public(settings):
        return
    for name in _samples(settings):
        raise ConfigError(
            f"{name} is a sample that everybody knows, and this server can be reached from "
            "other machines (server.host, server.public_url): set one of your own, such as "
            "openssl rand -base64 32 makes; for compose.yaml, deploy/init makes them all",
        )


def is_sample(secret: str) -> bool:
    """Whether a secret is one of those; also one that stands in base64."""
    for text in (secret, *_decoded(secret)):
        small = text.lower()
        if small in _KNOWN or _TO_FILL_IN.search(small) or (text and len(set(text)) == 1):
            return True
    return False


def _samples(settings: Settings) -> Iterator[str]:
    redis = urlsplit(settings.state.redis_url).password
    secrets = {
        "the password in state.redis_url": "" if redis is None else unquote(redis),
        "state.secret_key": settings.state.secret_key,
        "storage.secret_access_key": settings.storage.secret_access_key,
        "auth.jwt_key": settings.auth.jwt_key,
        "webhooks.secret": settings.webhooks.secret,
    }
    user = settings.storage.access_key_id.lower()
    if user in _KNOWN_USERS or _TO_FILL_IN.search(user):
        yield "storage.access_key_id"
    yield from (name for name, secret in secrets.items() if is_sample(secret))


def _decoded(secret: str) -> Iterator[str]:
    try:
        yield base64.b64decode(secret.removeprefix("whsec_"), validate=True).decode()
    except (binascii.Error, ValueError):
        return  # it is no base64, or of bytes that are no text
