"""Links to files of the local store: a key, an expiry, a name, and an HMAC over them.

HMAC-SHA256 (RFC 2104, FIPS 198-1) with a secret that lies beside the data, so
that links outlive a restart and every process on the data gives the same ones.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlencode

from downloadd.errors import ConfigError, LinkInvalid

_SECRET_BYTES = 32


class LinkSigner:
    """Signs and verifies links; equal secrets give equal signatures."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def url(self, base_url: str, key: str, expires: int, name: str) -> str:
        """Return ``{base_url}/v1/files/{key}?expires=…&name=…&signature=…``."""
        query = {
            "expires": str(expires),
            "name": name,
            "signature": self.signature(key, str(expires), name),
        }
        return f"{base_url}/v1/files/{quote(key)}?{urlencode(query, quote_via=quote)}"

    def signature(self, key: str, expires: str, name: str) -> str:
        # Neither keys nor expiries hold a line feed, so no two triples are one text.
        text = f"downloadd-file-1\n{key}\n{expires}\n{name}".encode("utf-8", "surrogatepass")
        digest = hmac.digest(self._secret, text, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def verify(self, key: str, expires: str, name: str, signature: str, now: float) -> None:
        """Raise ``LinkInvalid`` unless this is a link of ours whose time is not over."""
        expected = self.signature(key, expires, name).encode()
        given = signature.encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(expected, given):
            raise LinkInvalid("The link is not valid. Ask for a new one.")
        if not expires.isascii() or not expires.isdigit() or int(expires) <= now:
            raise LinkInvalid("The link has expired. Ask for a new one.")


def load_secret(path: Path, what: str = "link secret", loss: str = "links given before") -> bytes:
    """Return the secret in ``path``, made now, for its owner alone, if there is none.

    ``what`` it is, and the ``loss`` of it, are said in the ``ConfigError`` where
    the file cannot be read, made, or is not a secret.
    """
    secret = kept_secret(path, what, lambda: secrets.token_bytes(_SECRET_BYTES))
    if len(secret) != _SECRET_BYTES:
        raise ConfigError(
            f"The {what} {path} does not have {_SECRET_BYTES} bytes. "
            f"Remove it to get a new one; {loss} end with it."
        )
    return secret


def kept_secret(path: Path, what: str, make: Callable[[], bytes]) -> bytes:
    """Return what is in ``path``; where there is no such file, make it, for its owner alone.

    Of several processes that start at once, one makes it and all get it.
    ``ConfigError``, which calls it ``what``, where it cannot be read or made.
    """
    try:
        if not path.exists():
            _write_secret(path, make())
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"The {what} {path} cannot be used: {exc.strerror}.") from exc


def _write_secret(path: Path, secret: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces the one of a quicker process.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
