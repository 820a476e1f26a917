"""The kinds of setting that say where something is: URLs, hosts, networks, ports."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import RedisError
from yarl import URL

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
        # Anywhere: a raw "/" in a password makes the rest of it, and the "@", a path.
        if "@" in text or parts.query or parts.fragment or re.search(r"\s", text):
            raise Refused(value)
        _check_labels(parts.hostname)
        return text.rstrip("/")


class RedisUrl(Setting):
    """A URL as redis-py takes it; or empty."""

    secret = True
    _FORM = re.compile(r"(?:rediss?://\S+|unix://\S*/\S+)?")
    _DATABASE = re.compile(r"/*[0-9]*/*")

    def __init__(self) -> None:
        super().__init__(
            'empty or a URL such as "redis://user:password@host:6379/0", "rediss://…" or '
            '"unix:///path", with a number for the database, only options that redis-py has, and '
            '"@" behind the host, and "@", "/", "?" and "#" of a password, as %40, %2F, %3F, %23',
        )

    def parse(self, value: object) -> str:
        text = text_of(value)
        if not self._FORM.fullmatch(text):
            raise Refused(value)
        if text:
            self._check(text)
        return text

    def _check(self, text: str) -> None:
        parts = urlsplit(text)
        # A raw "/", "?" or "#" ends the authority: what follows it would be the
        # rest of a password, and be shown.
        if (parts.netloc and "@" in parts.path + parts.query) or parts.fragment or parts.port == 0:
            raise Refused(text)
        if parts.scheme != "unix":
            # Of a path that is no number, redis-py makes database 0.
            if not parts.hostname or not self._DATABASE.fullmatch(parts.path):
                raise Refused(text)
            _check_labels(parts.hostname)
        _check_redis_options(text)

    def show(self, value: str) -> object:
        shown = re.sub(r"(?<=://)[^/]*@", f"{MASK}@", value)
        # redis-py takes credentials from the query as well.
        return re.sub(r"((?:username|password)=)[^&]*", rf"\1{MASK}", shown)


def _check_redis_options(url: str) -> None:
    """Refuse what redis-py would refuse; it dials nothing here."""
    try:
        options: dict[str, Any] = dict(parse_url(url))
        options.pop("connection_class", Connection)(**options)
    except (TypeError, RedisError) as exc:
        raise Refused(url) from exc


def _check_labels(host: str) -> None:
    """Refuse a name that sockets refuse before they look it up: "a..b", long labels."""
    host.encode("idna")


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

    The rules are those of ``network.guard``, which brings the names into the
    form that it compares: a test sees to it that what passes here passes there.
    """

    _FORM = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/?#@\[\]]+))(?::([0-9]{1,5}))?")
    _NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")

    def __init__(self) -> None:
        super().__init__('a list of hosts, "host:port" or networks such as "10.0.0.0/8"')

    def parse(self, value: object) -> str:
        text = text_of(value)
        if "/" in text or (text.count(":") > 1 and not text.startswith("[")):
            return self._network(text)
        found = self._FORM.fullmatch(text)
        if not found or (found[3] and not 1 <= int(found[3]) <= 65535):
            raise Refused(value)
        if found[1]:
            ip_address(found[1])
        else:
            self._check_name(found[2])
        return text

    def _network(self, text: str) -> str:
        if "%" in text:  # a zone: whose it is on this machine, the guard cannot know
            raise Refused(text)
        return str(ip_network(text))

    def _check_name(self, name: str) -> None:
        if not name.isascii():
            name = URL.build(scheme="http", host=name).raw_host or ""
        name = name.lower().removesuffix(".")
        if not self._NAME.fullmatch(name):
            raise Refused(name)
        if _NUMBER_AT_END.search(name):
            IPv4Address(name)


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
