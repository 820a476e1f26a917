"""JSON Web Tokens (RFC 7519), with what RFC 8725 asks of those who take them.

Which algorithm goes with a key is settled by the key, never by the token: a
public key is no HMAC secret, whatever a token's header says.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from cryptography.x509 import load_der_x509_certificate

from downloadd.access.caller import Caller, is_user_name
from downloadd.access.files import Watched, key_list
from downloadd.errors import ConfigError, Forbidden, Unauthorized

#: Seconds by which clocks may differ.
LEEWAY = 30.0
#: Longest token, characters.
MAX_TOKEN_CHARS = 8000
#: RFC 7518 §3.2: a key of the hash's size or more.
MIN_SECRET_BYTES = 32
#: RFC 7518 §3.3.
MIN_RSA_BITS = 2048

_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "oct": "HS256"}
_NOT_VALID = "The token is not valid."
#: How a line of OpenSSH's keys begins.
_OPENSSH = re.compile(r"\s*(?:sk-)?(?:ssh|ecdsa)-[\w@.-]+ ")

#: What is said of each fault; the others are told nothing about.
_FAULTS: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "The token has expired.",
    jwt.ImmatureSignatureError: "The token is not valid yet.",
    jwt.InvalidAudienceError: "The token is for another audience.",
    jwt.InvalidIssuerError: "The token is of another issuer.",
}


@dataclass(frozen=True, slots=True)
class Key:
    """What signatures of one algorithm are verified with."""

    algorithm: str
    material: Any
    #: Its name in a key set.
    kid: str | None = None


class Tokens:
    """``access.Authenticator`` over one key or a file of keys (RFC 7517)."""

    def __init__(
        self,
        *,
        key: str = "",
        jwks_file: Path | None = None,
        algorithms: Sequence[str],
        issuer: str = "",
        audience: str = "",
        roles: Sequence[str],
    ) -> None:
        """``key``: a secret, or a public key as PEM; ``jwks_file`` is read in its place.

        A role that a token does not name is the first of ``roles``. Raises
        ``ConfigError`` for a key that is none, or too weak.
        """
        self._algorithms = frozenset(algorithms)
        self._issuer, self._audience, self._roles = issuer, audience, roles
        self._keys: _One | _Set
        if jwks_file is None:
            self._keys = _One(_parse_key(key), self._algorithms)
        else:
            self._keys = _Set(jwks_file, self._algorithms)

    async def identify(self, credential: str) -> Caller:
        """See ``access.Authenticator``."""
        if len(credential) > MAX_TOKEN_CHARS:
            raise Unauthorized("The token is too long.")
        key = await self._keys.pick(credential)
        try:
            claims = jwt.decode(
                credential,
                key.material,
                algorithms=[key.algorithm],
                issuer=self._issuer or None,
                audience=self._audience or None,
                leeway=LEEWAY,
                options={"require": self._required()},
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as exc:
            text = next((text for kind, text in _FAULTS.items() if isinstance(exc, kind)), None)
            # Not from it: its message may hold what was sent.
            raise Unauthorized(text or _NOT_VALID) from None
        return self._caller(claims)

    def _required(self) -> list[str]:
        """What is checked has to be there: PyJWT checks what it finds."""
        asked = {"iss": self._issuer, "aud": self._audience}
        return ["exp", "sub", *(claim for claim, wanted in asked.items() if wanted)]

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        user, role = claims["sub"], claims.get("role", self._roles[0])
        if not is_user_name(user):
            raise Unauthorized("The token's sub cannot be a user's name.")
        if role not in self._roles:
            raise Forbidden("The token's role has no rights here.")
        return Caller(user=user, role=role)


class _One:
    """The one key of the configuration."""

    def __init__(self, key: Key, algorithms: Collection[str]) -> None:
        if key.algorithm not in algorithms:
            allowed = ", ".join(sorted(algorithms))
            raise ConfigError(
                f"auth.jwt_key is for {key.algorithm}; auth.jwt_algorithms allows {allowed}."
            )
        self._key = key

    async def pick(self, _: str) -> Key:
        return self._key


class _Set:
    """The keys of a file, which may be changed while the server runs."""

    def __init__(self, path: Path, algorithms: Collection[str]) -> None:
        self._file = Watched(path, partial(_parse_set, algorithms=algorithms))

    async def pick(self, token: str) -> Key:
        """The key that a token says it is signed with. ``Unauthorized``."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthorized(_NOT_VALID) from None
        kid = header.get("kid")
        found = [
            key
            for key in await self._file.get()
            if key.algorithm == header.get("alg") and (kid is None or key.kid == kid)
        ]
        # Without a name only a set in which there is nothing to choose decides.
        if len(found) != 1:
            raise Unauthorized("The token is signed with a key that is not known here.")
        return found[0]


def _parse_set(raw: bytes, *, algorithms: Collection[str]) -> tuple[Key, ...]:
    """The keys of a set that may be used; those of other kinds and uses are passed over."""
    keys = [key for entry in key_list(raw) if (key := _parse_entry(entry)) is not None]
    usable = tuple(key for key in keys if key.algorithm in algorithms)
    if not usable:
        raise ValueError("it has no key for any of auth.jwt_algorithms")
    return usable


def _parse_key(text: str) -> Key:
    _, begin, after = text.partition("-----BEGIN ")
    if not begin:
        if _is_public(text):
            raise ConfigError(
                "auth.jwt_key is a public key, but not as PEM: as a secret everybody would have "
                "it. It has to begin with -----BEGIN PUBLIC KEY-----."
            )
        if len(text.encode()) < MIN_SECRET_BYTES:
            raise ConfigError(
                f"auth.jwt_key is too short: a secret for HS256 has {MIN_SECRET_BYTES} bytes "
                "or more; a public key is PEM and begins with -----BEGIN PUBLIC KEY-----."
            )
        return Key("HS256", text)
    try:
        # Tools write comments, and what they call attributes, before it.
        material = load_pem_public_key((begin + after).strip().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError("auth.jwt_key is PEM, but no public key.") from exc
    if isinstance(material, rsa.RSAPublicKey) and material.key_size >= MIN_RSA_BITS:
        return Key("RS256", material)
    if isinstance(material, ec.EllipticCurvePublicKey) and _is_p256(material):
        return Key("ES256", material)
    raise ConfigError(
        f"auth.jwt_key is neither an RSA key of {MIN_RSA_BITS} bits or more nor one on P-256."
    )


def _is_public(text: str) -> bool:
    """Whether a text is a public key or a certificate in one of the other forms."""
    if _OPENSSH.match(text):
        return True
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(text), dict)
    try:
        raw = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return False
    for load in (load_der_public_key, load_der_x509_certificate):
        with suppress(ValueError, TypeError, UnsupportedAlgorithm):
            load(raw)
            return True
    return False


def _is_p256(material: ec.EllipticCurvePublicKey) -> bool:
    return isinstance(material.curve, ec.SECP256R1)


def _parse_entry(entry: object) -> Key | None:
    """One key of a set (RFC 7517 §5: what is not understood is passed over)."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    algorithm = _ALGORITHMS.get(str(entry.get("kty")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if algorithm == "ES256" and entry.get("crv") != "P-256":
        return None
    try:
        material = jwt.PyJWK(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, LookupError, AttributeError) as exc:
        raise ValueError(f"the key {entry.get('kid', 'without a kid')!r} cannot be read") from exc
    kid = entry.get("kid")
    return _strong(Key(algorithm, material, kid if isinstance(kid, str) else None))


def _strong(key: Key) -> Key:
    material = key.material
    if isinstance(material, bytes) and len(material) < MIN_SECRET_BYTES:
        raise ValueError(f"the secret {key.kid!r} has fewer than {MIN_SECRET_BYTES} bytes")
    if hasattr(material, "public_key"):
        raise ValueError(f"the key {key.kid!r} is private: a server that verifies needs none")
    if isinstance(material, rsa.RSAPublicKey) and material.key_size < MIN_RSA_BITS:
        raise ValueError(f"the key {key.kid!r} has fewer than {MIN_RSA_BITS} bits")
    return key
