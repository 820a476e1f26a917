"""Where a request comes from, through the proxies that are trusted (SPEC §7)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from aiohttp import web

#: The address of who asks, as logs show it and limits count it.
CLIENT: web.RequestKey[str] = web.RequestKey("client", str)

Networks = Sequence[IPv4Network | IPv6Network]

#: Of IPv6 a site has as many addresses as it likes within this (RFC 6177).
_SITE_BITS = 64


def client_of(request: web.BaseRequest) -> str:
    """The address of who asks; "unknown" where the connection has none."""
    return request.get(CLIENT) or request.remote or "unknown"


def site_of(request: web.BaseRequest) -> str:
    """The same, for counting: a whole site where it is IPv6."""
    address = _parsed(client_of(request))
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _SITE_BITS), strict=False))
    return client_of(request)


def client_address(remote: str | None, forwarded: Sequence[str], trusted: Networks) -> str | None:
    """Who asks: the peer, or what the last proxy that is not trusted was told.

    ``forwarded`` are the ``X-Forwarded-For`` headers, each a list. They are
    read from the right, for whoever is not trusted can write what they like
    into what stands to the left of their own address.
    """
    address = _parsed(remote or "")
    if address is None:
        return remote
    hops = [hop for line in forwarded for hop in line.split(",")]
    while _is_trusted(address, trusted) and hops:
        told = _parsed(_without_port(hops.pop().strip()))
        if told is None:
            break
        address = told
    return str(address)


def _is_trusted(address: IPv4Address | IPv6Address, trusted: Networks) -> bool:
    return any(address in network for network in trusted)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket for both families shows IPv4 so.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _without_port(hop: str) -> str:
    """Some proxies write the port as well: "1.2.3.4:5", "[::1]:5"."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
