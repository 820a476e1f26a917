"""The address guard: what this server may dial on a stranger's word.

``AddressGuard`` is policy alone, without I/O; ``dial.py`` has it asked about
every address that aiohttp really connects to. SPEC §7 "Outbound requests".
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from posixpath import normpath
from urllib.parse import quote_from_bytes, unquote, urlsplit

import structlog
from yarl import URL

from downloadd.errors import AddressBlocked, ConfigError
from downloadd.network.addresses import (
    METADATA,
    Address,
    embedded_ipv4,
    is_private_name,
    special_use,
)
from downloadd.urls import Improper, canonical_host

#: Ports that may be dialled where the configuration names none.
DEFAULT_PORTS: tuple[str, ...] = ("80", "443", "8000-8999")

#: Longest URL that callers may give, characters.
MAX_URL_LENGTH = 2048

_log = structlog.get_logger(__name__)

_MESSAGE = "This address may not be fetched."
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::(.*))?\Z")
# An authority whose last part, behind userinfo and brackets, has a port of digits or none.
_NUMBERED = re.compile(r"(?:\A|[@\]])[^@\]:]*(?::[0-9]*)?\Z")


def _blocked(reason: str) -> AddressBlocked:
    """A refusal, which tells nobody why; the log has it, with the job or request that it is of."""
    _log.info("address.blocked", reason=reason)
    return AddressBlocked(_MESSAGE, reason=reason)


@dataclass(frozen=True, slots=True)
class _Rule:
    """One entry of ``allow`` or ``deny``: a name or a network, at one port or all."""

    name: str | None
    network: IPv4Network | IPv6Network | None
    port: int | None

    def covers(self, host: str, address: Address | None, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address is not None and address in self.network
        return self.name == host

    @property
    def one_address(self) -> bool:
        return self.network is not None and self.network.num_addresses == 1


class AddressGuard:
    """Decides which URLs may be asked for and which addresses dialled.

    ``allow`` and ``deny`` take host names, IP addresses and networks in CIDR
    form; names and addresses also with a port (``host:80``, ``[::1]:80``).
    An allowed entry opens addresses, and ports where it names none, that are
    closed by default; a network never opens a cloud's metadata address, which
    has to be named itself. ``deny`` wins. ``own`` are the addresses this
    server listens on, ``known_as`` is the URL by which clients know it: they
    are closed unless allowed with that very port.

    Raises ``ConfigError`` for what cannot be read.
    """

    def __init__(
        self,
        *,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        ports: Sequence[str | int | tuple[int, int]] = DEFAULT_PORTS,
        own: Sequence[tuple[str, int]] = (),
        known_as: str = "",
    ) -> None:
        self._allow = tuple(_parse_rule("network.allow", entry) for entry in allow)
        self._deny = tuple(_parse_rule("network.deny", entry) for entry in deny)
        self._ports = tuple(_parse_ports(entry) for entry in ports)
        self._own = tuple((_own_address(host), port) for host, port in own)
        self._known_as = _parse_known_as(known_as) if known_as else None
        self._networks_allowed = any(rule.network is not None for rule in self._allow)

    def check_url(self, url: str, *, max_length: int = MAX_URL_LENGTH) -> URL:
        """Return the URL as it may be sent, byte for byte but for its host.

        The host is in canonical form (IDNA, lower case, no trailing dot), the
        fragment is gone, non-ASCII characters are percent-encoded, userinfo
        is kept. A name is yet to be resolved: ``check_address`` has the last
        word. Raises ``AddressBlocked``.
        """
        try:
            parsed = _parse_url(url, max_length)
        except Improper as exc:
            raise _blocked(f"not a proper URL: {exc}") from exc
        except (ValueError, LookupError):
            # What others say of it may quote the URL's password. yarl looks
            # for brackets behind an "@" where there may be nothing.
            raise _blocked("not a proper URL") from None
        # Not ``host``: that one is decoded from IDNA for people to read.
        host, port = parsed.raw_host, parsed.port
        if host is None or port is None:
            raise _blocked("the URL names no host")
        if self._is_known_as(host, port, parsed.raw_path):
            raise _blocked(f"{host} port {port} is this server itself")
        address = _literal(host)
        if address is not None:
            self.check_address(address, host, port)
        else:
            self._check_name(host, port)
        return parsed

    def _is_known_as(self, host: str, port: int, path: str) -> bool:
        """Whether clients reach this server there, and nobody has opened that very port."""
        if self._known_as is None or (host, port) != self._known_as[:2]:
            return False
        # Beside a path of this server's, the host is somebody else's as well.
        if not f"{_plain_path(path)}/".startswith(self._known_as[2]):
            return False
        rules = [it for it in self._allow if it.covers(host, _literal(host), port)]
        return all(rule.port is None for rule in rules)

    def _check_name(self, host: str, port: int) -> None:
        if _any_covers(self._deny, host, None, port):
            raise _blocked(f"{host} is denied")
        if _any_covers(self._allow, host, None, port):
            return
        # An allowed network may open name and port; that is seen when the name is resolved.
        if self._networks_allowed:
            return
        if is_private_name(host):
            raise _blocked(f"{host} is a private name")
        if not self._port_open(port):
            raise _blocked(f"port {port} of {host} is closed")

    def check_address(self, address: str | Address, host: str, port: int) -> None:
        """Raise ``AddressBlocked`` unless ``address``, found for ``host``, may be dialled."""
        if isinstance(address, str):
            try:
                address = ip_address(address)
            except ValueError as exc:
                raise _blocked(f"{host}: {exc}") from exc
        objection = self._objection(address, host, port)
        if objection is not None:
            raise _blocked(f"{host} is {address} port {port}: {objection}")

    def _objection(self, address: Address, host: str, port: int) -> str | None:
        if _any_covers(self._deny, host, address, port):
            return "denied"
        rules = [rule for rule in self._allow if rule.covers(host, address, port)]
        if self._is_own(address, port) and all(rule.port is None for rule in rules):
            return "this server itself"
        if address in METADATA and not any(rule.one_address for rule in rules):
            return "cloud metadata"
        hidden = tuple(embedded_ipv4(address))
        if rules:
            # An allowed NAT64 prefix, say, opens the way to global addresses only.
            objections = (self._objection(inner, host, port) for inner in hidden)
            return next((text for text in objections if text is not None), None)
        if not self._port_open(port):
            return "closed port"
        if hidden:
            return f"hides {hidden[0]}"
        return special_use(address)

    def _port_open(self, port: int) -> bool:
        return any(low <= port <= high for low, high in self._ports)

    def _is_own(self, address: Address, port: int) -> bool:
        plain = (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address
        return any(
            port == own_port
            # The kernel takes an unspecified address for this machine's.
            and (plain.is_unspecified or (plain == own if own is not None else _is_local(plain)))
            for own, own_port in self._own
        )


@lru_cache(maxsize=4096)
def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _parse_url(url: str, max_length: int) -> URL:
    if len(url) > max_length:
        raise Improper(f"longer than {max_length} characters")
    if match := _FORBIDDEN.search(url):
        raise Improper(f"it contains {match.group()!r}")
    parsed = URL(url, encoded=True)
    if parsed.scheme not in ("http", "https"):
        raise Improper("the scheme is neither http nor https")
    if not parsed.raw_host:
        raise Improper("it names no host")
    host = canonical_host(parsed.raw_host)
    if not _NUMBERED.search(urlsplit(url).netloc):
        # yarl takes for a number what int() does: "+80", "8_0", digits of other scripts.
        raise Improper("the port is not a number")
    if "[" in parsed.raw_authority and ":" not in host:
        raise Improper("the brackets hold no IPv6 address")
    if host == parsed.raw_host and "#" not in url and url.isascii():
        return parsed
    return _rebuilt(parsed, host)


def _rebuilt(parsed: URL, host: str) -> URL:
    userinfo, at, _ = parsed.raw_authority.rpartition("@")
    port = "" if parsed.explicit_port is None else f":{parsed.explicit_port}"
    bracketed = f"[{host}]" if ":" in host else host
    authority = f"{_ascii(userinfo)}{at}{bracketed}{port}"
    target = _ascii(parsed.raw_path_qs)
    return URL(f"{parsed.scheme}://{authority}{target}", encoded=True)


def _ascii(text: str) -> str:
    """Percent-encode what is not ASCII, and nothing else (RFC 3987 §3.1).

    Bytes that aiohttp could not decode in a header arrive as surrogates.
    """
    return _NON_ASCII.sub(
        lambda match: quote_from_bytes(match.group().encode("utf-8", "surrogateescape")), text
    )


def _any_covers(rules: Iterable[_Rule], host: str, address: Address | None, port: int) -> bool:
    return any(rule.covers(host, address, port) for rule in rules)


def _parse_known_as(url: str) -> tuple[str, int, str]:
    """Host, port, and the path with a slash at its end."""
    try:
        parsed = URL(url)
        host = canonical_host(parsed.raw_host or "")
    except ValueError as exc:
        raise ConfigError(f"server.public_url: {url!r} has no proper host: {exc}.") from exc
    return host, parsed.port or 0, f"{_plain_path(parsed.raw_path).rstrip('/')}/"


def _plain_path(path: str) -> str:
    """A path as proxies understand it: decoded, without dots and doubled slashes."""
    return normpath("/" + unquote(path).lstrip("/"))


def _parse_rule(setting: str, entry: str) -> _Rule:
    text = entry.strip()
    try:
        if "/" in text:
            return _Rule(None, ip_network(text, strict=False), None)
        host, port = _split_port(text)
        host = canonical_host(host)
        address = _literal(host)
    except ValueError as exc:
        raise ConfigError(
            f"{setting}: {entry!r} is neither a host, host:port, nor a network: {exc}."
        ) from exc
    if address is not None:
        return _Rule(None, ip_network(address), port)
    return _Rule(host, None, port)


def _split_port(text: str) -> tuple[str, int | None]:
    if match := _BRACKETED.match(text):
        host, port = match.groups()
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        return text, None
    return host, None if port is None else _port_number(port)


def _port_number(text: str | int) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is not a port")
    return port


def _parse_ports(entry: str | int | tuple[int, int]) -> tuple[int, int]:
    low: str | int
    high: str | int
    if isinstance(entry, tuple):
        low, high = entry
    elif isinstance(entry, int):
        low = high = entry
    else:
        low, dash, high = entry.partition("-")
        high = high if dash else low
    try:
        first, last = _port_number(low), _port_number(high)
    except ValueError as exc:
        raise ConfigError(f"network.ports: {entry!r} is not a port or a range: {exc}.") from exc
    if first > last:
        raise ConfigError(f"network.ports: the range {entry!r} is empty.")
    return first, last


def _own_address(host: str) -> Address | None:
    """Return a listening address; None where it stands for every local one."""
    address = _literal(host)
    return None if address is None or address.is_unspecified else address


def _is_local(address: Address) -> bool:
    """Whether an address is one of this machine's: the kernel would answer from it.

    All of 127.0.0.0/8 is, though it answers from 127.0.0.1. Connecting a
    datagram socket only looks the route up; nothing is sent.
    """
    if address.is_loopback:
        return True
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False
        return ip_address(probe.getsockname()[0]) == address
