"""Marshmallow fields that take JSON at its word: no string for a number, no 1 for true."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from marshmallow import Schema, ValidationError, fields

#: Answers list at most so many broken rules; a body may break thousands.
MAX_ERRORS = 50

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110 §5.6.2
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e]{0,4096}")  # RFC 9110 §5.5, without obs-text

#: Request headers that are this server's business, by lower-case name.
RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    },
)
MAX_HEADERS = 20
MAX_HEADER_BYTES = 4096


T = TypeVar("T")


class Strict(fields.Field[T]):
    """A field whose whole rule is ``read``: null is refused by it, and nothing is converted."""

    def read(self, value: Any) -> T:
        """Return what is kept of a value. Raises marshmallow's ``ValidationError``."""
        raise NotImplementedError

    def json_schema(self) -> dict[str, Any]:
        """The rule as JSON Schema (2020-12), as far as that can tell it."""
        raise NotImplementedError

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> T:
        return self.read(value)


class Bool(Strict[bool]):
    """``true`` or ``false``."""

    def read(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("Must be true or false.")
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Int(Strict[int]):
    """A whole number in a range; 1.0, "1" and true are none."""

    def __init__(self, low: int, high: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._low, self._high = low, high

    def read(self, value: Any) -> int:
        # type(), because bool is a subclass of int.
        if type(value) is not int or not self._low <= value <= self._high:
            raise ValidationError(f"Must be an integer from {self._low:,} to {self._high:,}.")
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self._low, "maximum": self._high}


class Text(Strict[str]):
    """A string of 1 to ``longest`` characters that ``check``, if given, lets pass.

    ``check`` returns the value to keep or raises ``ValueError`` with a sentence.
    """

    def __init__(
        self,
        longest: int,
        *,
        check: Callable[[str], str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._longest, self._check = longest, check

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("Must be a string.")
        if not 1 <= len(value) <= self._longest:
            raise ValidationError(f"Must have 1 to {self._longest:,} characters.")
        if self._check is None:
            return value
        try:
            return self._check(value)
        except ValueError as exc:
            raise ValidationError(str(exc)) from exc

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": self._longest}


class OneOf(Strict[str]):
    """One of a few strings."""

    def __init__(self, *allowed: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._allowed = allowed

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self._allowed:
            raise ValidationError(f"Must be one of: {', '.join(self._allowed)}.")
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": [str(value) for value in self._allowed]}


class Items(Strict[list[Any]]):
    """A list of 1 to ``most`` values of one kind; errors are keyed by place.

    As ``fields.List``, but without a field's whole protocol for each of a
    thousand items, and stopping at ``MAX_ERRORS``.
    """

    def __init__(self, item: Strict[Any] | Schema, most: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: What each item is.
        self.item = item
        self._load: Callable[[Any], Any] = item.load if isinstance(item, Schema) else item.read
        self._most = most

    def read(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValidationError("Must be a list.")
        if not 1 <= len(value) <= self._most:
            raise ValidationError(f"Must have 1 to {self._most:,} items; it has {len(value):,}.")
        result: list[Any] = []
        errors: dict[str | int, Any] = {}
        for index, item in enumerate(value):
            try:
                result.append(self._load(item))
            except ValidationError as exc:
                errors[index] = exc.messages
                if len(errors) >= MAX_ERRORS:
                    break
        if errors:
            raise ValidationError(errors)
        return result

    def json_schema(self) -> dict[str, Any]:
        """Without ``items``: whoever knows the schemas by name adds what ``item`` is."""
        return {"type": "array", "minItems": 1, "maxItems": self._most}


class Headers(Strict[Mapping[str, str]]):
    """Request headers for a source: sane names and values, none that fetching itself sets."""

    def read(self, value: Any) -> Mapping[str, str]:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object of strings.")
        if len(value) > MAX_HEADERS:
            raise ValidationError(f"At most {MAX_HEADERS} headers; there are {len(value)}.")
        errors = {name: [problem] for name in value if (problem := _header(name, value[name]))}
        if errors:
            raise ValidationError(errors)
        if len({name.lower() for name in value}) != len(value):
            raise ValidationError("A header is given twice.")
        if sum(len(name) + len(text) for name, text in value.items()) > MAX_HEADER_BYTES:
            raise ValidationError(f"At most {MAX_HEADER_BYTES:,} bytes in all.")
        return value

    def json_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "maxProperties": MAX_HEADERS,
            # Of reserved names it refuses every spelling; the pattern has the usual one.
            "propertyNames": {
                "pattern": f"^{_TOKEN.pattern}$",
                "not": {"enum": sorted(RESERVED_HEADERS)},
            },
            "additionalProperties": {"type": "string", "pattern": f"^{_FIELD_VALUE.pattern}$"},
        }


def _header(name: str, value: object) -> str | None:
    if not _TOKEN.fullmatch(name):
        return "Not a header name."
    if name.lower() in RESERVED_HEADERS:
        return "This header is set by the server itself."
    if not isinstance(value, str) or not _FIELD_VALUE.fullmatch(value):
        return "Must be a string of printable ASCII characters."
    return None


class Metadata(Strict[Mapping[str, Any]]):
    """Any JSON object of at most ``most`` bytes (compact UTF-8) and 32 levels."""

    LEVELS = 32

    def __init__(self, most: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._most = most

    def read(self, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object.")
        if not within(value, self.LEVELS):
            raise ValidationError(f"At most {self.LEVELS} levels deep.")
        size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
        if size > self._most:
            raise ValidationError(f"At most {self._most:,} bytes; it has {size:,}.")
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "object"}


def within(value: Any, levels: int) -> bool:
    """Whether objects and lists are nested no deeper than so many levels."""
    if isinstance(value, dict):
        return levels > 0 and all(within(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return levels > 0 and all(within(item, levels - 1) for item in value)
    return True
