"""Large answers go out as gzip to clients that take it (RFC 9110 §12.5.3).

What no cache may store is not compressed: such answers hold signed links
beside names that others may have chosen, and the compressed length would tell
how much the two have in common (BREACH). A status has links, too, but of one
job, whose names are fixed before its link is made: no second guess can be
tried against one signature.

Streams and files are other classes than ``web.Response`` and go out as they are.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache

from aiohttp import web
from aiohttp.typedefs import Handler
from isal import isal_zlib

#: Bytes below which compression saves no packet.
MIN_BYTES = 1024
#: Bytes above which the event loop would be held up: some 0.2 ms.
_INLINE_BYTES = 64 * 1024
#: The coder's own default: fast, and for JSON as good as its highest.
_LEVEL = 2
#: Deflate in gzip's frame, with the largest window.
_GZIP = 31

_TYPES = re.compile(r"text/.*|application/(?:.*\+)?json|application/javascript|image/svg\+xml")
_CODING = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9a-z-]+)\s*(?:;\s*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*)?",
    re.IGNORECASE,
)


@web.middleware
async def compression(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Compress what the handler answers, where that makes sense and is welcome."""
    response = await handler(request)
    if not isinstance(response, web.Response):
        return response
    body = response.body
    if not isinstance(body, bytes) or not _compressible(response, body):
        return response
    if "Accept-Encoding" not in response.headers.get("Vary", ""):
        response.headers.add("Vary", "Accept-Encoding")
    if takes_gzip(", ".join(request.headers.getall("Accept-Encoding", ()))):
        response.body = await _gzip(body, response.headers.get("Cache-Control", ""))
        response.headers["Content-Encoding"] = "gzip"
        _weaken(response)
    return response


def takes_gzip(accepted: str) -> bool:
    """Whether a client that sends this Accept-Encoding likes gzip as much as no coding."""
    weights: dict[str, float] = {}
    for item in filter(str.strip, accepted.split(",")):
        # What is no proper item is none of the codings that are taken.
        if found := _CODING.fullmatch(item):
            name = found[1].lower().removeprefix("x-")
            weights[name] = float(found[2] or 1)
    gzip = weights.get("gzip", weights.get("*", 0))
    return gzip > 0 and gzip >= weights.get("identity", 0)


def _compressible(response: web.Response, body: bytes) -> bool:
    cache_control = response.headers.get("Cache-Control", "")
    return (
        len(body) >= MIN_BYTES
        and _TYPES.fullmatch(response.content_type) is not None
        and "Content-Encoding" not in response.headers
        and "no-store" not in cache_control
        and "no-transform" not in cache_control
    )


async def _gzip(body: bytes, cache_control: str) -> bytes:
    if "no-cache" in cache_control and "private" not in cache_control:
        # A document, which is the same for everybody.
        return await asyncio.to_thread(_gzip_once, body)
    if len(body) <= _INLINE_BYTES:
        return _gzip_now(body)
    return await asyncio.to_thread(_gzip_now, body)


def _gzip_now(body: bytes) -> bytes:
    return isal_zlib.compress(body, _LEVEL, _GZIP)


#: There are five documents.
_gzip_once = lru_cache(maxsize=8)(_gzip_now)


def _weaken(response: web.Response) -> None:
    """A strong validator is of exact bytes, which these no longer are (RFC 9110 §8.8.3.3)."""
    tag = response.headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        response.headers["ETag"] = f"W/{tag}"
