"""Secrets at rest: one key from the configuration, and what is made of it.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits; keys for each
purpose by HKDF-SHA256 (RFC 5869), so that none can stand in for another.
"""

from __future__ import annotations

import base64
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_NONCE_BYTES = 12
_VERSION = "1:"


class SealBroken(ValueError):
    """It was sealed with another key, for another place, or has been changed."""


class Sealer:
    """Seals texts; who lacks the key can neither read nor change nor move them."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(derived(secret, "seal"))

    def seal(self, text: str, place: str) -> str:
        """Return the text sealed; it opens in the same ``place`` alone."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, text.encode(), place.encode())
        return _VERSION + base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, place: str) -> str:
        """Return the text. ``SealBroken``."""
        try:
            raw = base64.b64decode(sealed.removeprefix(_VERSION), validate=True)
            text = self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place.encode())
            return text.decode()
        except (ValueError, InvalidTag) as exc:
            raise SealBroken("it cannot be opened with this key") from exc


def derived(secret: bytes, purpose: str) -> bytes:
    """A key of its own for each purpose."""
    kdf = HKDF(
        algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"downloadd {purpose}".encode()
    )
    return kdf.derive(secret)
