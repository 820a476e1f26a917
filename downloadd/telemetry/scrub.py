"""The last line of defence against credentials in logs.

Code is expected not to log them; this removes what a library's message or an
exception's text carries all the same. It works on the finished line, so that
nothing (a nested value, an object's ``repr``) goes past it, and it never takes
out a quote or a backslash, so that JSON stays JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_HIDDEN = "***"

#: Colours, as a terminal's lines have them between a name and its value.
_COLOUR = r"(?:\x1b\[[0-9;]*m)*"
_QUOTE = r"\\?[\"']"
#: A quote that cannot be the end of a JSON string.
_INNER = r"(?:\\?'|\\\")"
#: What a value is made of where white space or a delimiter ends it.
_WORD = r"[^\s\"'\\&,;<>(){}\[\]\x1b]+"
_QUOTED = r"[^\"'\\\x1b]+"

#: Query parameters, headers and fields whose value is a credential.
_NAMES = (
    r"(?:x-(?:amz|goog)-(?:signature|credential|security-token)|x-api-key"
    r"|signature|sig|policy|key-pair-id|(?:[a-z]+_?)?(?:token|api_?key|secret|passw(?:or)?d)"
    r"|(?:aws_?)?(?:secret_?)?access_?key(?:_?id)?)"
)
_NAMED = rf"(?:{_NAMES}|(?:proxy-)?authorization|(?:set-)?cookie)"
_HINTS = "sig cred token key pass secret policy"
# A letter may stand before a name only as the end of a colour.
_BEFORE = r"(?:(?<![a-z0-9])|(?<=[0-9]m))"


@dataclass(frozen=True, slots=True)
class _Rule:
    #: The pattern need not be tried on lines that have none of these, in lower case.
    hints: Sequence[str]
    pattern: re.Pattern[str]
    replacement: str = rf"\1{_HIDDEN}"


def _rule(hints: str, pattern: str) -> _Rule:
    return _Rule(hints.split(), re.compile(pattern, re.IGNORECASE))


_RULES = (
    # Authorization: Bearer …
    _rule(
        "authorization",
        rf"(authorization{_COLOUR}\s*[:=]\s*{_COLOUR}b?{_INNER}?)(?:[a-z][\w-]*\s+)?{_WORD}",
    ),
    # Words follow "basic" in prose too; credentials have a digit or a sign in them.
    _rule("bearer basic", rf"(\b(?:bearer|basic)\s+)(?=[a-z+/~-]*[0-9._=]){_WORD}"),
    _rule("cookie", rf"(cookie\s*[:=]\s*+b?{_INNER}?){_QUOTED}"),
    # name=value, name%3Dvalue
    _rule(_HINTS, rf"({_BEFORE}{_NAMES}{_COLOUR}(?:=|%3d){_COLOUR}){_WORD}"),
    # "name": "value"
    _rule(
        f"{_HINTS} authorization cookie",
        rf"({_BEFORE}{_NAMED}({_QUOTE})\s*[:=]\s*b?\2){_QUOTED}",
    ),
    # ('name', 'value')
    _rule(
        f"{_HINTS} authorization cookie",
        rf"(\(b?({_QUOTE}){_NAMED}\2,\s*b?\2){_QUOTED}",
    ),
    # https://user:password@host
    _rule("@", r"(://)[^\s/?#\"'\\<>]*(?=@)"),
    _rule("whsec_", r"(whsec_)[a-z0-9+/=_-]+"),
)


def scrub(line: str) -> str:
    """Return a log line with ``***`` in place of what looks like a credential."""
    lowered = line.lower()
    for rule in _RULES:
        if any(hint in lowered for hint in rule.hints):
            line = rule.pattern.sub(rule.replacement, line)
    return line
