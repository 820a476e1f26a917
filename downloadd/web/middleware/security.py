"""Headers that tell browsers to take answers for what they are (SPEC §7)."""

from __future__ import annotations

from aiohttp import web

#: On every answer.
HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    # What is no page may load and run nothing; pages have a policy of their own.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # Not the versions of Python and aiohttp.
    "Server": "downloadd",
}
_POLICY = "Content-Security-Policy"


async def send_security_headers(_: web.Request, response: web.StreamResponse) -> None:
    """A signal handler, because streams send their headers before middleware sees them."""
    for name, value in HEADERS.items():
        if name != _POLICY or name not in response.headers:
            response.headers[name] = value
