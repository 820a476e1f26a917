"""What deploy/alloy/config.alloy makes of a line of Docker's, as far as it can be told here.

There is no Alloy to be had from Debian, PyPI or npm. This reads the file by the
rules of its syntax (blocks, attributes, strings, lists, objects) and does what
Alloy's reference says of the stages that are used, in their order. Others are
an error, so that the file cannot outgrow this unnoticed. What is not proven:
that Alloy itself takes the file, and that its stages are as their reference says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jmespath

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)|(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<name>[A-Za-z_][\w.]*)|(?P<number>\d+)|(?P<sign>[{}\[\]=,])""",
    re.VERBOSE,
)


@dataclass
class Block:
    name: str
    label: str | None
    attributes: dict[str, Any] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Entry:
    """A line on its way to Loki."""

    line: str
    labels: dict[str, str]
    extracted: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    timestamp: str | None = None


# --- reading -----------------------------------------------------------------------


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            assert match is not None, f"not Alloy's syntax: {text[at : at + 30]!r}"
            if match.lastgroup != "skip":
                self._tokens.append((match.lastgroup or "", match.group()))
            at = match.end()
        self._at = 0

    def body(self, block: Block) -> Block:
        """Read blocks and attributes up to the end of the block, or of the file."""
        while self._at < len(self._tokens) and not self._is("}"):
            name = self._take("name")
            if self._is("="):
                self._take("sign", "=")
                assert name not in block.attributes, f"{name} is given twice"
                block.attributes[name] = self._value()
            else:
                block.blocks.append(self._block(name))
        return block

    def _block(self, name: str) -> Block:
        label = None
        if self._tokens[self._at][0] == "string":
            label = json.loads(self._take("string"))
        self._take("sign", "{")
        block = self.body(Block(name, label))
        self._take("sign", "}")
        return block

    def _value(self) -> Any:
        kind, text = self._tokens[self._at]
        if kind in ("string", "number"):
            self._at += 1
            return json.loads(text)
        if kind == "name":
            return self._take("name")
        if text == "[":
            return self._items("[", "]", self._value)
        return dict(self._items("{", "}", self._pair))

    def _pair(self) -> tuple[str, Any]:
        name = self._take("name")
        self._take("sign", "=")
        return name, self._value()

    def _items(self, opening: str, closing: str, one: Any) -> list[Any]:
        self._take("sign", opening)
        found = []
        while not self._is(closing):
            found.append(one())
            # Between items, and after the last where its bracket is on another line.
            if not self._is(closing):
                self._take("sign", ",")
        self._take("sign", closing)
        return found

    def _is(self, sign: str) -> bool:
        return self._tokens[self._at] == ("sign", sign)

    def _take(self, kind: str, text: str | None = None) -> str:
        found = self._tokens[self._at]
        assert found[0] == kind, f"{found[1]!r} where a {kind} should be"
        assert text in (None, found[1]), f"{found[1]!r} where {text!r} should be"
        self._at += 1
        return found[1]


def read(text: str) -> Block:
    """The whole file as one block."""
    return _Reader(text).body(Block("", None))


# --- doing -------------------------------------------------------------------------


def process(stages: list[Block], line: str, labels: Mapping[str, str]) -> Entry | None:
    """The entry that Loki gets for a line; None where it is dropped."""
    # Labels are there to be read from the beginning.
    entry = Entry(line, dict(labels), dict(labels))
    for stage in stages:
        kind = stage.name.removeprefix("stage.")
        if kind == "match":
            assert stage.attributes["action"] == "drop"
            if _matches(stage.attributes["selector"], entry):
                return None
            continue
        _DO[kind](entry, **stage.attributes)
    return entry


def _matches(selector: str, entry: Entry) -> bool:
    found = re.fullmatch(r"\{(.*)\}", selector)
    assert found is not None
    pairs = [re.fullmatch(r'\s*(\w+)="([^"]*)"\s*', it) for it in found.group(1).split(",")]
    return all(it is not None and entry.labels.get(it.group(1), "") == it.group(2) for it in pairs)


def _json(entry: Entry, expressions: Mapping[str, str], source: str = "") -> None:
    text = entry.extracted.get(source) if source else entry.line
    try:
        data = json.loads(text or "")
    except ValueError:
        return
    for name, expression in expressions.items():
        entry.extracted[name] = jmespath.search(expression or name, data)


def _regex(entry: Entry, expression: str, source: str) -> None:
    value = entry.extracted.get(source)
    if isinstance(value, str) and (match := re.search(expression, value)):
        entry.extracted.update(match.groupdict())


def _labels(entry: Entry, values: Mapping[str, str]) -> None:
    _copy(entry, values, entry.labels)


def _structured_metadata(entry: Entry, values: Mapping[str, str]) -> None:
    _copy(entry, values, entry.metadata)


def _copy(entry: Entry, values: Mapping[str, str], into: dict[str, str]) -> None:
    for name, source in values.items():
        if isinstance(found := entry.extracted.get(source or name), str):
            into[name] = found


def _label_drop(entry: Entry, values: list[str]) -> None:
    for name in values:
        entry.labels.pop(name, None)


def _timestamp(entry: Entry, source: str, format: str) -> None:
    assert format == "RFC3339Nano"
    entry.timestamp = entry.extracted.get(source)


def _output(entry: Entry, source: str) -> None:
    if isinstance(found := entry.extracted.get(source), str):
        entry.line = found


_DO = {
    "json": _json,
    "regex": _regex,
    "labels": _labels,
    "structured_metadata": _structured_metadata,
    "label_drop": _label_drop,
    "timestamp": _timestamp,
    "output": _output,
}
