"""Keys and tokens, good ones and others, for tests of who calls."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

ISSUER, AUDIENCE = "https://login.example", "downloadd"
SECRET = "a secret of more than sixty-four bytes, which is enough for any HMAC there is"


@cache
def rsa_key(name: str = "", bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key; the same for the same name."""
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(name: str = "", curve: type[ec.EllipticCurve] = ec.SECP256R1) -> Any:
    return ec.generate_private_key(curve())


def public_pem(key: Any) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def public_der(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


def public_ssh(key: Any) -> str:
    found: bytes = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return found.decode()


def certificate(key: Any) -> bytes:
    """A certificate of the key by itself, as DER."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "login.example")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=now,
        not_valid_after=now + timedelta(days=1),
    )
    return made.sign(key, SHA256()).public_bytes(Encoding.DER)


def private_pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    """The public part of a key, or a secret, as an entry of a key set."""
    if isinstance(key, str):
        entry: Any = {"kty": "oct", "k": b64(key.encode())}
    else:
        algorithm: Any = (
            jwt.algorithms.RSAAlgorithm
            if isinstance(key, rsa.RSAPrivateKey)
            else jwt.algorithms.ECAlgorithm
        )
        entry = json.loads(algorithm.to_jwk(key.public_key()))
        entry.pop("key_ops", None)
    return {**entry, **more}


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims, with changes; None takes one away."""
    now = int(time.time())
    good = {"sub": "ann", "role": "user", "iss": ISSUER, "aud": AUDIENCE, "exp": now + 300}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def mint(
    key: Any, algorithm: str, *, header: Mapping[str, Any] | None = None, **changes: Any
) -> str:
    """A token signed as PyJWT signs."""
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=dict(header or {}))


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(header: Mapping[str, Any], body: Any, signature: bytes | str = b"") -> str:
    """A token put together by hand, whatever PyJWT thinks of it."""
    parts = [b64(json.dumps(part).encode()) for part in (header, body)]
    parts.append(signature if isinstance(signature, str) else b64(signature))
    return ".".join(parts)


def hmac_signed(header: Mapping[str, Any], body: Any, secret: bytes) -> str:
    """A token with an HMAC over it, with anything for a secret: a public key, above all."""
    unsigned = ".".join(b64(json.dumps(part).encode()) for part in (header, body))
    return f"{unsigned}.{b64(hmac.digest(secret, unsigned.encode(), hashlib.sha256))}"
