"""URLs as logs, manifests and errors may show them, and whose they are."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from yarl import URL

_HIDDEN = "***"

#: Scheme and slashes, then what stands before the path. WHATWG's parsers take
#: a backslash for a slash.
_AUTHORITY = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:(?=[/\\]))?[/\\]*)([^/\\]*)")
#: Scheme and authority as ``urlsplit`` takes them.
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_HOST_PORT = re.compile(r"(?:\[[0-9A-Za-z:.%]*\]|[^:\[\]]*)(?::[0-9]*)?")

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\Z")
# What inet_aton() takes for a number, in any base (WHATWG "ends in a number").
_NUMBER_AT_END = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\Z")


class Improper(ValueError):
    """Something is wrong with a URL that can be said without quoting it."""


def redact(url: str) -> str:
    """Return the URL without user, password, query values and fragment.

    ``?a=…`` becomes ``?a=***``, what has no ``=`` or nothing behind it ``***``. Never
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
    name, _, value = pair.partition("=")
    # Without a value there is no name either: "=" may be the end of a token in base64.
    return f"{name}={_HIDDEN}" if value.strip("=") else _HIDDEN


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
        return parts.netloc.rpartition("@")[2]
    if not parts.hostname:
        return parts.scheme  # our own storage has no host
    try:
        return f"{canonical_host(parts.hostname)}:{port}"
    except ValueError:
        return f"{parts.hostname}:{port}"


@lru_cache(maxsize=4096)
def canonical_host(host: str) -> str:
    """Return a host in the one form that is compared and dialled.

    Names are IDNA-encoded (UTS 46), lower case, without trailing dot; IPv6
    literals are compressed, without brackets. Raises ``ValueError`` for
    anything else, the decimal, octal, hex and short spellings of IPv4 included.
    """
    if ":" in host:
        return str(_unzoned(host))
    if not host.isascii():
        host = URL.build(scheme="http", host=host).raw_host or ""
    host = host.lower().removesuffix(".")
    if not _NAME.match(host):
        raise Improper("the host is not a name")
    if _NUMBER_AT_END.search(host):
        return str(IPv4Address(host))
    return host


def _unzoned(host: str) -> IPv6Address:
    address = IPv6Address(host)
    if address.scope_id is not None:
        raise Improper("the address has a zone")
    return address
