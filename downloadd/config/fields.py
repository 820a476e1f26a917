"""The kinds of value a setting can have: how each is read, checked and shown.

Every kind takes what TOML gives (numbers, booleans, lists) and what the
environment gives (text), and says in ``allowed`` what it accepts, in words
that end the sentence "it must be …".
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import marshmallow

#: What stands in for a secret wherever settings are shown.
MASK = "********"


class Refused(ValueError):
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


def text_of(value: object) -> str:
    """Return text as it is; ``ValueError`` for what is none, or what no path and no URL can hold.

    That is NUL, and bytes of the environment that are not UTF-8: they arrive
    as surrogates (PEP 383).
    """
    if not isinstance(value, str) or "\0" in value:
        raise Refused(value)
    value.encode()
    return value


def digits_of(text: str) -> int:
    """Read ASCII digits and nothing else: ``int()`` also takes "8_0", " 80 " and "٨٠"."""
    if not (text.isascii() and text.isdecimal()):
        raise Refused(text)
    return int(text)


class Text(Setting):
    """Text, checked by a pattern where one is given; empty only if that allows it."""

    def __init__(self, allowed: str = "text", pattern: str = r"[^\x00-\x1f\x7f]*") -> None:
        super().__init__(allowed)
        self._pattern = re.compile(pattern)

    def parse(self, value: object) -> str:
        if not self._pattern.fullmatch(text := text_of(value)):
            raise Refused(value)
        return text


class KeyTemplate(Text):
    """The key of an object for each file id; one that stays within a folder."""

    #: No part of it is empty or hidden, nor leads upwards.
    _FORM = r"(?!(?:.*/)?(?:[./]|\Z))[^\\\x00-\x1f\x7f]*\{file_id\}[^\\\x00-\x1f\x7f]*"
    #: An archive's own name, which is removed when nobody is known to want it.
    _ARCHIVE = re.compile(r".*[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:-[0-9]+)?\.zip")
    #: Ids have five to nine digits.
    _DIGITS = range(5, 10)
    _LONGEST = 1000

    def __init__(self) -> None:
        super().__init__(
            "an object key with {file_id} in it, of at most 1,000 bytes, without a backslash, "
            "whose parts between slashes are not empty and begin with no dot, "
            "and which is not what archives are called",
            self._FORM,
        )

    def parse(self, value: object) -> str:
        text = super().parse(value)
        keys = [text.replace("{file_id}", "1" * digits) for digits in self._DIGITS]
        if any(self._ARCHIVE.fullmatch(key) for key in keys):
            raise Refused(value)
        if len(keys[-1].encode()) > self._LONGEST:
            raise Refused(value)
        return text


class Secret(Text):
    """Text that is never shown."""

    secret = True

    def show(self, value: str) -> object:
        return MASK if value else ""


class SigningSecret(Secret):
    """A secret of Standard Webhooks 1.0: "whsec_" and the base64 of 24 to 64 bytes."""

    _FORM = re.compile(r"whsec_([A-Za-z0-9+/]+={0,2})")

    def __init__(self) -> None:
        super().__init__('empty or "whsec_" and the base64 of 24 to 64 bytes')

    def parse(self, value: object) -> str:
        text = text_of(value)
        if text == "":
            return text
        if not (match := self._FORM.fullmatch(text)):
            raise Refused(value)
        encoded = match[1].rstrip("=")
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        if not 24 <= len(key) <= 64:
            raise Refused(value)
        return text


class SentryDsn(Secret):
    """Where a project of Sentry's takes events; its key is in it."""

    def __init__(self) -> None:
        super().__init__("empty or a DSN of Sentry's, https://KEY@HOST/PROJECT")
        self._pattern = re.compile(r"(https?://[^\s@/:]+@[^\s@/]+(/[^\s/]+)*/[0-9]+)?")


class SecretKey(Secret):
    """A key of 256 bits or more, as ``openssl rand -base64 32`` prints it."""

    _LEAST, _MOST = 32, 64

    def __init__(self) -> None:
        super().__init__("empty or the base64 of 32 to 64 random bytes: openssl rand -base64 32")

    def parse(self, value: object) -> str:
        text = text_of(value)
        if text and not self._LEAST <= len(base64.b64decode(text, validate=True)) <= self._MOST:
            raise Refused(value)
        return text


class PemOrSecret(Secret):
    """A secret, or a key of several lines."""

    def __init__(self) -> None:
        super().__init__()
        self._pattern = re.compile(r"[^\x00-\x09\x0b\x0c\x0e-\x1f\x7f]*")


class Choice(Setting):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        super().__init__(" or ".join(f'"{word}"' for word in words))
        self._words = words

    def parse(self, value: object) -> str:
        if value not in self._words:
            raise Refused(value)
        return text_of(value)


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
            return self._WORDS[text_of(value).lower()]
        except KeyError as exc:
            raise Refused(value) from exc


class Whole(Setting):
    """A whole number within bounds; ``unit`` is said in messages alone."""

    def __init__(self, low: int, high: int, unit: str = "") -> None:
        of = f" of {unit}" if unit else ""
        super().__init__(f"a whole number{of} from {low} to {high}")
        self._low, self._high = low, high

    def parse(self, value: object) -> int:
        number = self._number(value)
        if not self._low <= number <= self._high:
            raise Refused(value)
        return number

    def _number(self, value: object) -> int:
        # True is an int to Python; to whoever wrote `retries = true` it is not.
        if isinstance(value, bool):
            raise Refused(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value if isinstance(value, int) else digits_of(text_of(value))


class Size(Whole):
    """Bytes: a whole number, or text with a unit such as "10 GiB" or "500 MB"."""

    _PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([kKMGTP]i?)?B?")
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
        if not (match := self._PATTERN.fullmatch(value)):
            raise Refused(value)
        unit = (match[2] or "").replace("K", "k")
        return int(float(match[1]) * self._UNITS[unit]) if unit else digits_of(match[1])

    def show(self, value: int) -> object:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            size = self._UNITS[unit.replace("K", "k").removesuffix("B")]
            if value and value % size == 0:
                return f"{value // size} {unit}"
        return value


class Number(Setting):
    """A number, fractions allowed."""

    _PATTERN = re.compile(r"[0-9]*\.?[0-9]+")

    def __init__(self, low: float, high: float, what: str = "a number") -> None:
        super().__init__(f"{what} from {low:g} to {high:.10g}")
        self._low, self._high = low, high

    def parse(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise Refused(value)
        if isinstance(value, str) and not self._PATTERN.fullmatch(value):
            raise Refused(value)
        number = float(value)
        if not math.isfinite(number) or not self._low <= number <= self._high:
            raise Refused(value)
        return number

    def show(self, value: float) -> object:
        return int(value) if value == int(value) else value


class Seconds(Number):
    """A span of time: a number of seconds, fractions allowed."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(low, high, "a number of seconds")


class Folder(Setting):
    """A path, made absolute; ``~`` is the home folder. None where it is empty."""

    def __init__(self) -> None:
        super().__init__("empty or a path in UTF-8")

    def parse(self, value: object) -> Path | None:
        path = Path(text_of(str(value) if isinstance(value, Path) else value))
        if value == "":
            return None
        try:
            return path.expanduser().absolute()
        except RuntimeError as exc:  # "~someone" who is not there
            raise Refused(value) from exc

    def show(self, value: Path | None) -> object:
        return "" if value is None else str(value)


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
            raise Refused(value)
        return tuple(self._item.parse(item) for item in value)

    def show(self, value: tuple[Any, ...]) -> object:
        return [self._item.show(item) for item in value]


class Table(Setting):
    """A table by name, each entry made by ``make`` from some of the same whole numbers."""

    def __init__(self, make: Callable[..., Any], **parts: Setting) -> None:
        names = ", ".join(parts)
        super().__init__(f"a table in the file: name = {{{names}}}, one or more of them")
        self._make, self._parts = make, parts

    def parse(self, value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise Refused(value)
        return {name: self._entry(entry) for name, entry in value.items()}

    def _entry(self, entry: object) -> Any:
        if not isinstance(entry, dict) or not entry or not entry.keys() <= self._parts.keys():
            raise Refused(entry)
        return self._make(**{key: self._parts[key].parse(value) for key, value in entry.items()})

    def show(self, value: Mapping[str, Any]) -> object:
        return {
            name: {
                key: part.show(given)
                for key, part in self._parts.items()
                if (given := getattr(entry, key)) is not None
            }
            for name, entry in value.items()
        }


class ByName(Setting):
    """A table by name, each entry of the same kind."""

    def __init__(self, item: Setting) -> None:
        super().__init__(f"a table in the file: name = {item.allowed}")
        self._item = item

    def parse(self, value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise Refused(value)
        return {name: self._item.parse(entry) for name, entry in value.items()}

    def show(self, value: Mapping[str, Any]) -> object:
        return {name: self._item.show(entry) for name, entry in value.items()}
