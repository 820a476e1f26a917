"""URLs as logs, manifests and errors may show them, and whose they are."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urlsplit

_HIDDEN = "***"

#: Scheme and slashes, then what stands before the path. WHATWG's parsers take
#: a backslash for a slash.
_AUTHORITY = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:(?=[/\\]))?[/\\]*)([^/\\]*)")
#: Scheme and authority as ``urlsplit`` takes them.
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_HOST_PORT = re.compile(r"(?:\[[0-9A-Za-z:.%]*\]|[^:\[\]]*)(?::[0-9]*)?")


def redact(url: str) -> str:
    """Return the URL without user, password, query values and fragment.

    ``?a=…`` becomes ``?a=***``, a query without ``=`` becomes ``***``. Never
    raises; where host and port make no sense (a password may have run over
    into them) nothing is shown but the scheme.
    """
    address, _, _ = url.partition("#")
    address, _, query = address.partition("?")
    address = _without_user(address)
    if not query:
        return address
    return f"{address}?{'&'.join(_hidden(pair) for pair in query.split('&'))}"


def _without_user(address: str) -> str:
    found = _AUTHORITY.match(address)
    # The pattern matches even the empty string.
    scheme, authority = found.groups() if found else ("", "")
    host = authority.rpartition("@")[2]
    if not _HOST_PORT.fullmatch(host):
        return scheme + _HIDDEN
    return scheme + host + address[len(scheme) + len(authority) :]


def _hidden(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}={_HIDDEN}" if equals else _HIDDEN


def host_of(url: str) -> str:
    """Host and port in one spelling: what a source is known by. Never raises."""
    found = _ORIGIN.match(url)
    return _host_of(found.group() if found else url)


# A job may have 1,000 files of one host.
@lru_cache(1024)
def _host_of(origin: str) -> str:
    try:
        parts = urlsplit(origin)
    except ValueError:  # who fetches it says so better
        return ""
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return parts.netloc
    if not parts.hostname:
        return parts.scheme  # our own storage has no host
    return f"{parts.hostname.rstrip('.')}:{port}"
