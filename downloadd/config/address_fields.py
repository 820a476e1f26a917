"""The kinds of setting that say where something is: URLs, hosts, networks, ports."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from downloadd.config.fields import MASK, Refused, Setting, digits_of, text_of

# What resolvers take for an IPv4 address, in any base (WHATWG URL §3.5 "ends in a number").
_NUMBER_AT_END = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9A-Fa-f]*)\Z")


class Url(Setting):
    """An absolute http or https URL without credentials, query or fragment; or empty."""

    def __init__(self) -> None:
        super().__init__('empty or a URL such as "https://host:port", without credentials')

    def parse(self, value: object) -> str:
        text = text_of(value)
        if not text:
            return text
        parts = urlsplit(text)
        # Reading the port is what checks it.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise Refused(value)
        if "@" in parts.netloc or parts.query or parts.fragment or re.search(r"\s", text):
            raise Refused(value)
        return text.rstrip("/")


class RedisUrl(Setting):
    """A URL as redis-py takes it; or empty."""

    secret = True
    _FORM = re.compile(r"(?:rediss?://\S+|unix://\S*/\S+)?")

    def __init__(self) -> None:
        super().__init__('empty or a "redis://", "rediss://" or "unix:///" URL')

    def parse(self, value: object) -> str:
        text = text_of(value)
        parts = urlsplit(text)
        if not self._FORM.fullmatch(text) or parts.port == 0:
            raise Refused(value)
        if parts.scheme.startswith("redis") and not parts.hostname:
            raise Refused(value)
        return text

    def show(self, value: str) -> object:
        shown = re.sub(r"(?<=://)[^/]*@", f"{MASK}@", value)
        # redis-py takes credentials from the query as well.
        return re.sub(r"((?:username|password)=)[^&]*", rf"\1{MASK}", shown)


class Host(Setting):
    """An IP address, or a host name as in RFC 1123 (underscores let pass)."""

    _LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    _NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")

    def __init__(self) -> None:
        super().__init__("an IP address or a host name")

    def parse(self, value: object) -> str:
        text = text_of(value)
        if _NUMBER_AT_END.search(text) or not self._NAME.fullmatch(text):
            ip_address(text)
        return text


class Origin(Setting):
    """An origin as browsers send it (RFC 6454), or ``*`` for any."""

    def __init__(self) -> None:
        super().__init__('a list of "*" or origins such as "https://app.example"')

    def parse(self, value: object) -> str:
        text = text_of(value)
        parts = urlsplit(text)
        if text != "*" and (not parts.hostname or f"{parts.scheme}://{parts.netloc}" != text):
            raise Refused(value)
        if "@" in parts.netloc or parts.port == 0:
            raise Refused(value)
        return text


class Network(Setting):
    """A network or a single address."""

    def __init__(self) -> None:
        super().__init__('a list of networks or addresses such as "10.0.0.0/8"')

    def parse(self, value: object) -> IPv4Network | IPv6Network:
        return ip_network(text_of(value))

    def show(self, value: IPv4Network | IPv6Network) -> object:
        return str(value)


class Peer(Setting):
    """A network, an address, a host, or ``host:port``, as ``network.allow`` takes them.

    Names are checked for their form alone; the address guard brings them into
    the one that it compares.
    """

    _NAME = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")

    def __init__(self) -> None:
        super().__init__('a list of hosts, "host:port" or networks such as "10.0.0.0/8"')

    def parse(self, value: object) -> str:
        text = text_of(value)
        if "/" in text or (text.count(":") > 1 and not text.startswith("[")):
            return str(ip_network(text))
        found = self._NAME.fullmatch(text)
        if not found or (found[1] and not 1 <= int(found[1]) <= 65535):
            raise Refused(value)
        return text


class Ports(Setting):
    """A port, or a range of them as text: "8000-8999"."""

    def __init__(self) -> None:
        super().__init__('a list of ports from 1 to 65535 and ranges such as "8000-8999"')

    def parse(self, value: object) -> tuple[int, int]:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise Refused(value)
        first, dash, last = str(value).partition("-")
        low, high = digits_of(first), digits_of(last if dash else first)
        if not 1 <= low <= high <= 65535:
            raise Refused(value)
        return low, high

    def show(self, value: tuple[int, int]) -> object:
        low, high = value
        return low if low == high else f"{low}-{high}"
