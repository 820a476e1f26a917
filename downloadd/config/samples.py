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
from urllib.parse import parse_qs, unquote, urlsplit

from downloadd.config.sections import Settings
from downloadd.errors import ConfigError

#: What manuals, images and people in a hurry call their first passwords, in small letters;
#: also with a few digits behind it.
KNOWN = frozenset(
    {
        *("minioadmin", "minio", "minio-root-password", "minio-secret-key"),
        *("admin", "administrator", "root", "user", "test", "guest", "default"),
        *("password", "passw0rd", "secret", "supersecret", "letmein", "qwerty"),
        *("redis", "valkey", "foobared", "downloadd", "access-key", "secret-key"),
        *("todo", "example", "sample"),
        # Amazon's manuals, and the two secrets of jwt.io's form.
        "wjalrxutnfemi/k7mdeng/bpxrficyexamplekey",
        *("your-256-bit-secret", "a-string-secret-at-least-256-bits-long"),
    }
)
_DIGITS = "1234567890" * 8
#: User names that come with one password only; others may be anybody's.
_KNOWN_USERS = frozenset({"minioadmin", "akiaiosfodnn7example"})
#: What stands in examples for something to be filled in; .env.example is full of it. In angle
#: brackets only as a whole: a random secret may have both somewhere.
_TO_FILL_IN = re.compile(
    r"change[-_. ]?(?:me|this|it)|please[-_. ]?change|replace[-_. ]?(?:me|this)|your[-_. ]secret"
    r"|placeholder|^<[^<>]+>$"
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
        small = text.strip().lower()
        if small in KNOWN or re.sub(r"\d{1,4}$", "", small) in KNOWN:
            return True
        if _TO_FILL_IN.search(small) or (small and _DIGITS.startswith(small)):
            return True
        if len(set(text)) == 1:
            return True
    return False


def _samples(settings: Settings) -> Iterator[str]:
    secrets = {
        "state.secret_key": settings.state.secret_key,
        "storage.secret_access_key": settings.storage.secret_access_key,
        "auth.jwt_key": settings.auth.jwt_key,
        "webhooks.secret": settings.webhooks.secret,
    }
    user = settings.storage.access_key_id.lower()
    if user in _KNOWN_USERS or _TO_FILL_IN.search(user):
        yield "storage.access_key_id"
    if any(map(is_sample, _redis_passwords(settings.state.redis_url))):
        yield "the password in state.redis_url"
    yield from (name for name, secret in secrets.items() if is_sample(secret))


def _redis_passwords(url: str) -> Iterator[str]:
    """Before the host, and in the query, where the client takes one as well."""
    parts = urlsplit(url)
    yield unquote(parts.password or "")
    # The client decodes these once more than others do.
    yield from map(unquote, parse_qs(parts.query).get("password", []))


def _decoded(secret: str) -> Iterator[str]:
    try:
        yield base64.b64decode(secret.removeprefix("whsec_"), validate=True).decode()
    except (binascii.Error, ValueError):
        return  # it is no base64, or of bytes that are no text
