"""The kinds of value a setting can have: how each is read, checked and shown.

Every kind takes what TOML gives (numbers, booleans, lists) and what the
environment gives (text), and says in ``allowed`` what it accepts, in words
that end the sentence "it must be …".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import marshmallow

#: What stands in for a secret wherever settings are shown.
MASK = "********"


class _Refused(ValueError):
    """A value is not allowed, whatever the reason."""


class Setting(marshmallow.fields.Field[Any]):
    """A value of one kind. Subclasses say how text or TOML becomes it."""

    #: Whether error messages must not repeat the value.
    secret = False

    def __init__(self, allowed: str) -> None:
        super().__init__()
        self.allowed = allowed

    def parse(self, value: object) -> Any:
        """Return the value in its own type; ``ValueError`` where it is not allowed."""
        raise NotImplementedError

    def show(self, value: Any) -> object:
        """Return what ``check-config`` prints: TOML types, nothing secret."""
        return value

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> Any:
        try:
            return self.parse(value)
        except (ValueError, OverflowError) as exc:
            raise marshmallow.ValidationError(self.allowed) from exc


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Refused(value)
    return value


class Text(Setting):
    """Text, checked by a pattern where one is given; empty only if that allows it."""

    def __init__(self, allowed: str = "text", pattern: str = r"[^\x00-\x1f\x7f]*") -> None:
        super().__init__(allowed)
        self._pattern = re.compile(pattern)

    def parse(self, value: object) -> str:
        if not self._pattern.fullmatch(text := _text(value)):
            raise _Refused(value)
        return text


class Secret(Text):
    """Text that is never shown."""

    secret = True

    def show(self, value: str) -> object:
        return MASK if value else ""


class Choice(Setting):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        super().__init__(" or ".join(f'"{word}"' for word in words))
        self._words = words

    def parse(self, value: object) -> str:
        if value not in self._words:
            raise _Refused(value)
        return _text(value)


class Switch(Setting):
    """True or false; in the environment also 1/0, yes/no, on/off."""

    _WORDS: Mapping[str, bool] = {
        **dict.fromkeys(("true", "1", "yes", "on"), True),
        **dict.fromkeys(("false", "0", "no", "off"), False),
    }

    def __init__(self) -> None:
        super().__init__("true or false")

    def parse(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        try:
            return self._WORDS[_text(value).lower()]
        except KeyError as exc:
            raise _Refused(value) from exc


class Whole(Setting):
    """A whole number within bounds; ``unit`` is said in messages alone."""

    def __init__(self, low: int, high: int, unit: str = "") -> None:
        of = f" of {unit}" if unit else ""
        super().__init__(f"a whole number{of} from {low} to {high}")
        self._low, self._high = low, high

    def parse(self, value: object) -> int:
        number = self._number(value)
        if not self._low <= number <= self._high:
            raise _Refused(value)
        return number

    def _number(self, value: object) -> int:
        # True is an int to Python; to whoever wrote `retries = true` it is not.
        if isinstance(value, bool):
            raise _Refused(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value if isinstance(value, int) else int(_text(value))


class Size(Whole):
    """Bytes: a whole number, or text with a unit such as "10 GiB" or "500 MB"."""

    _PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGTP]i?)?B?")
    _UNITS: Mapping[str, int] = {
        unit + suffix: base**power
        for power, unit in enumerate("kMGTP", start=1)
        for suffix, base in (("", 1000), ("i", 1024))
    }

    def __init__(self, low: int = 1, high: int = 1 << 60) -> None:
        super().__init__(low, high)
        least = f"at least {low} bytes" if low > 1 else "above 0"
        self.allowed = f'a number of bytes or text such as "10 GiB", {least}'

    def _number(self, value: object) -> int:
        if not isinstance(value, str):
            return super()._number(value)
        if not (match := self._PATTERN.fullmatch(value.strip())):
            raise _Refused(value)
        unit = (match[2] or "").replace("K", "k")
        return int(float(match[1]) * self._UNITS[unit]) if unit else int(match[1])

    def show(self, value: int) -> object:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            size = self._UNITS[unit.replace("K", "k").removesuffix("B")]
            if value and value % size == 0:
                return f"{value // size} {unit}"
        return value


class Seconds(Setting):
    """A span of time: a number of seconds, fractions allowed."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(f"a number of seconds from {low:g} to {high:.10g}")
        self._low, self._high = low, high

    def parse(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise _Refused(value)
        number = float(value)
        if not math.isfinite(number) or not self._low <= number <= self._high:
            raise _Refused(value)
        return number

    def show(self, value: float) -> object:
        return int(value) if value == int(value) else value


class Url(Setting):
    """An absolute http or https URL without credentials, query or fragment; or empty."""

    def __init__(self) -> None:
        super().__init__('empty or a URL such as "https://host:port", without credentials')

    def parse(self, value: object) -> str:
        text = _text(value)
        if not text:
            return text
        parts = urlsplit(text)
        # Reading the port is what checks it.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise _Refused(value)
        if "@" in parts.netloc or parts.query or parts.fragment or re.search(r"\s", text):
            raise _Refused(value)
        return text.rstrip("/")


class RedisUrl(Setting):
    """A URL as redis-py takes it; or empty."""

    secret = True
    _FORM = re.compile(r"(?:rediss?://\S+|unix://\S*/\S+)?")

    def __init__(self) -> None:
        super().__init__('empty or a "redis://", "rediss://" or "unix:///" URL')

    def parse(self, value: object) -> str:
        text = _text(value)
        parts = urlsplit(text)
        if not self._FORM.fullmatch(text) or parts.port == 0:
            raise _Refused(value)
        if parts.scheme.startswith("redis") and not parts.hostname:
            raise _Refused(value)
        return text

    def show(self, value: str) -> object:
        shown = re.sub(r"(?<=://)[^/]*@", f"{MASK}@", value)
        # redis-py takes credentials from the query as well.
        return re.sub(r"((?:username|password)=)[^&]*", rf"\1{MASK}", shown)


class Host(Setting):
    """An IP address, or a host name as in RFC 1123 (underscores let pass)."""

    _NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")

    def __init__(self) -> None:
        super().__init__("an IP address or a host name")

    def parse(self, value: object) -> str:
        text = _text(value)
        if not self._NAME.fullmatch(text):
            ip_address(text)
        return text


class Origin(Setting):
    """An origin as browsers send it (RFC 6454), or ``*`` for any."""

    def __init__(self) -> None:
        super().__init__('a list of "*" or origins such as "https://app.example"')

    def parse(self, value: object) -> str:
        text = _text(value)
        parts = urlsplit(text)
        if text != "*" and (not parts.hostname or f"{parts.scheme}://{parts.netloc}" != text):
            raise _Refused(value)
        if "@" in parts.netloc or parts.port == 0:
            raise _Refused(value)
        return text


class Network(Setting):
    """A network or a single address."""

    def __init__(self) -> None:
        super().__init__('a list of networks or addresses such as "10.0.0.0/8"')

    def parse(self, value: object) -> IPv4Network | IPv6Network:
        return ip_network(_text(value))

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
        text = _text(value)
        if "/" in text or (text.count(":") > 1 and not text.startswith("[")):
            return str(ip_network(text))
        found = self._NAME.fullmatch(text)
        if not found or (found[1] and not 1 <= int(found[1]) <= 65535):
            raise _Refused(value)
        return text


class Ports(Setting):
    """A port, or a range of them as text: "8000-8999"."""

    def __init__(self) -> None:
        super().__init__('a list of ports from 1 to 65535 and ranges such as "8000-8999"')

    def parse(self, value: object) -> tuple[int, int]:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise _Refused(value)
        first, dash, last = str(value).partition("-")
        low, high = int(first), int(last if dash else first)
        if not 1 <= low <= high <= 65535:
            raise _Refused(value)
        return low, high

    def show(self, value: tuple[int, int]) -> object:
        low, high = value
        return low if low == high else f"{low}-{high}"


class Folder(Setting):
    """A path, made absolute; ``~`` is the home folder. None where it is empty."""

    def __init__(self) -> None:
        super().__init__("empty or a path")

    def parse(self, value: object) -> Path | None:
        path = value if isinstance(value, Path) else Path(_text(value))
        if value == "":
            return None
        try:
            return path.expanduser().absolute()
        except RuntimeError as exc:  # "~someone" who is not there
            raise _Refused(value) from exc

    def show(self, value: Path) -> object:
        return str(value)


class Several(Setting):
    """A list of one kind; in the environment, separated by commas."""

    def __init__(self, item: Setting, *, at_least: int = 0) -> None:
        allowed = item.allowed
        super().__init__(allowed if allowed.startswith("a list") else f"a list, each {allowed}")
        self._item, self._at_least = item, at_least

    def parse(self, value: object) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple) or len(value) < self._at_least:
            raise _Refused(value)
        return tuple(self._item.parse(item) for item in value)

    def show(self, value: tuple[Any, ...]) -> object:
        return [self._item.show(item) for item in value]


class Table(Setting):
    """A table by name, each entry made by ``make`` from the same whole numbers."""

    def __init__(self, make: Callable[..., Any], **parts: Setting) -> None:
        names = ", ".join(parts)
        super().__init__(f"a table in the file: name = {{{names}}}, all of them given")
        self._make, self._parts = make, parts

    def parse(self, value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise _Refused(value)
        return {name: self._entry(entry) for name, entry in value.items()}

    def _entry(self, entry: object) -> Any:
        if not isinstance(entry, dict) or entry.keys() != self._parts.keys():
            raise _Refused(entry)
        return self._make(**{key: part.parse(entry[key]) for key, part in self._parts.items()})

    def show(self, value: Mapping[str, Any]) -> object:
        return {
            name: {key: part.show(getattr(entry, key)) for key, part in self._parts.items()}
            for name, entry in value.items()
        }
