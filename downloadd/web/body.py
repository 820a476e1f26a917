"""Request bodies: bytes to JSON, strictly, with an answer for everything that is none."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Never

from aiohttp import web

from downloadd.errors import ValidationError
from downloadd.web.fields import within
from downloadd.web.framing import ask_for_body
from downloadd.web.slots import turn_to_read

#: Largest body that is read; the application's ``client_max_size``.
MAX_BODY_BYTES = 4 * 1024 * 1024
#: Seconds that a client may take to send it: fewer than a request may take by default.
BODY_TIMEOUT_SECONDS = 25.0
#: How deep it may be nested; metadata has its own limit.
MAX_LEVELS = 40
#: Most values in it, about: small ones cost many times their bytes, and a second for a million.
MAX_VALUES = 50_000

#: A string, or what is to be one and has no end.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
#: What clients call a string, and what aiohttp calls a body of no type.
_PLAIN = ("text/plain", "application/octet-stream")


async def json_object(request: web.Request, *, plain: bool = False) -> dict[str, Any]:
    """Read the request's body, which must be a JSON object in UTF-8 (RFC 8259).

    ``plain``: it may say that it is plain text, or nothing.
    Raises ``ValidationError``, and aiohttp's 408, 413 and 415.
    """
    types = ("application/json", *(_PLAIN if plain else ()))
    if request.content_type not in types or not _is_utf8(request.charset):
        raise web.HTTPUnsupportedMediaType(
            text="Send the body as Content-Type: application/json, in UTF-8.",
        )
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise web.HTTPUnsupportedMediaType(
            text="Send the body as it is, without a Content-Encoding.",
            # What is taken instead (RFC 9110 §12.5.3).
            headers={"Accept-Encoding": "identity"},
        )
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, request.content_length or 0)
    async with turn_to_read(request):
        return decode(await _read(request))


async def _read(request: web.Request) -> bytearray:
    raw = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            await ask_for_body(request)
            async for piece in request.content.iter_any():
                raw += piece
                if len(raw) > MAX_BODY_BYTES:
                    raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, len(raw))
    except BaseException as exc:
        # The request keeps the error, and with it this frame, until Python
        # looks for such circles: a client that breaks off would leave its body.
        raw.clear()
        if isinstance(exc, TimeoutError):
            raise web.HTTPRequestTimeout(text="The body did not arrive in time.") from exc
        raise
    return raw


def _is_utf8(charset: str | None) -> bool:
    return charset is None or charset.lower() in ("utf-8", "utf8")


def decode(raw: bytes | bytearray) -> dict[str, Any]:
    """Parse a JSON object. ``ValidationError`` for anything else.

    A name given twice is refused (which one counts would be a guess), and so
    are numbers and strings that JSON could not carry on: NaN, infinities, and
    lone surrogates.
    """
    try:
        if _many_values(raw):
            raise ValueError(f"there are more than {MAX_VALUES:,} values")
        value = STRICT_JSON.decode(raw.decode())
        if b"\\u" in raw:
            # Only an escape can smuggle half a surrogate pair into a string.
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError as exc:
        raise ValidationError("The body is not valid UTF-8.") from exc
    except RecursionError as exc:
        raise ValidationError("The body is nested too deeply.") from exc
    except ValueError as exc:
        # json's own messages hold positions and no more than a character of the body.
        raise ValidationError(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(value, dict):
        raise ValidationError("The body must be a JSON object.")
    if not within(value, MAX_LEVELS):
        raise ValidationError(f"The body is nested deeper than {MAX_LEVELS} levels.")
    return value


def _many_values(raw: bytes | bytearray) -> bool:
    """Whether there are too many to look at each."""

    def count(text: bytes | bytearray) -> int:
        return sum(map(text.count, (b",", b"[", b"{")))

    # A value has one string, or two with its name; few have a quote in them.
    if raw.count(b'"') > 4 * MAX_VALUES:
        return True
    # Nearly always the first is enough, though it takes in what strings hold.
    return count(raw) > MAX_VALUES and count(_STRING.sub(b"", raw)) > MAX_VALUES


def canonical_hash(value: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a JSON object whatever its spacing and the order of its names."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is given twice in one object")
    return result


def _constant(name: str) -> Never:
    raise ValueError(f"{name} is no JSON number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as exc:
        # Python's limit on digits, with advice to those who run it.
        raise ValueError("a number is too large") from exc


#: Takes nothing that could be understood in two ways, nor what JSON could not carry on.
STRICT_JSON = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_constant=_constant,
    parse_float=_number,
    parse_int=_integer,
)
