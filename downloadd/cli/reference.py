"""``docs/configuration.md``, made from what is known of the settings elsewhere.

    python -m downloadd.cli.reference config.toml > docs/configuration.md

What a setting means is said in the comments of ``config.toml`` alone, what it
may be in ``config.sections``, and what else it is called in ``config.sources``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

from downloadd.cli.options import FLAGS
from downloadd.config import SETTINGS, Settings
from downloadd.config.fields import ByName, Table
from downloadd.config.sources import PREFIX, WELL_KNOWN

_SECTION = re.compile(r"\[(\w+)\]")
_KEY = re.compile(r"(\w+) = (.*)")
_SETTING = re.compile(rf"\b({'|'.join(map(re.escape, SETTINGS))})\b")
_NAMES = "|".join(sorted(WELL_KNOWN, key=len, reverse=True))
#: With the other names of a setting its comment begins; here they have a column.
_CALLED = re.compile(
    rf"\A(?:{_NAMES})(?:(?:, | and )(?:{_NAMES}))*(?:, in milliseconds)?(?:[.:;]\s*|\Z)"
)

_INTRODUCTION = """\
# Configuration

<!-- Made by "make docs" from config.toml and the settings' own checks: change those. -->

Every setting has a default with which `downloadd serve` runs on a bare machine. A value is
taken from, the first that has one:

1. a flag of `downloadd serve`;
2. the environment: `{prefix}<SECTION>_<KEY>`, then the name that other programs use for the
   same thing, where there is one;
3. the file: `--config`, else `config.toml` in the working directory, if it is there;
4. the default.

- Lists are separated by commas in the environment: `{prefix}NETWORK_PORTS=443,8000-8999`.
- An empty variable counts as unset. An unknown one that begins with `{prefix}` is refused, as
  is an unknown key of the file.
- Secrets can be read from a file, as container platforms mount them: add `_FILE` to the
  variable and name the file, `S3_SECRET_ACCESS_KEY_FILE=/run/secrets/s3`. Space around what is
  in it is left out. Both at once are refused.
- Times are seconds, fractions allowed unless it says "whole". Sizes are bytes, or text such as
  "10 GiB" (1024) or "10 GB" (1000).
- A wrong value stops the start with one line that names the setting, the value and what is
  allowed, and exit status 2.
- `downloadd check-config` prints what is in force and who says so, secrets masked.

The file with every setting and its default is
[config.toml](../config.toml): copy what you change.
"""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Settings that one comment explains."""

    comment: str
    #: Their keys, each with its default in TOML.
    defaults: Mapping[str, str]


def document(text: str) -> str:
    """Return the page; ``text`` is that of ``config.toml``."""
    parts = [_INTRODUCTION.format(prefix=PREFIX), *_flags(), *_well_known(), "## Settings\n"]
    for section, groups in _sections(text).items():
        parts.append(f"### `[{section}]`\n\n{_about(section)}\n")
        parts += [_entry(section, group) for group in groups]
    return "\n".join(parts)


def _flags() -> Iterator[str]:
    yield "## Flags of `downloadd serve`\n\n| flag | what it does |\n|---|---|"
    for flag, options in FLAGS.items():
        value = options.get("metavar", flag.removeprefix("--").upper())
        yield f"| `{flag} {value}` | {_cell(str(options['help']))} |"
    yield ""


def _well_known() -> Iterator[str]:
    yield "## Names that other programs use as well\n\n| variable | setting |\n|---|---|"
    for variable, (name, scale) in WELL_KNOWN.items():
        unit = "" if scale is None else ", in milliseconds"
        yield f"| `{variable}` | `{name}`{unit} |"
    yield ""


def _sections(text: str) -> Mapping[str, Sequence[Group]]:
    """By section: its settings, those together that stand below one comment."""
    found: dict[str, list[Group]] = {}
    comment: list[str] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif match := _SECTION.fullmatch(line):
            section, comment = match[1], []
            found[section] = []
        elif match := _KEY.fullmatch(line):
            if comment or not found[section]:
                found[section].append(Group(comment=_plain(comment), defaults={}))
            group = found[section].pop()
            defaults = {**group.defaults, match[1]: match[2]}
            found[section].append(Group(comment=group.comment, defaults=defaults))
            comment = []
    return found


def _plain(comment: Sequence[str]) -> str:
    text = _CALLED.sub("", " ".join(comment), count=1)
    return re.sub(r"^[a-z](?=[a-z]* )", lambda first: first[0].upper(), text)


def _about(section: str) -> str:
    return (get_type_hints(Settings)[section].__doc__ or "").strip()


def _entry(section: str, group: Group) -> str:
    names = [f"{section}.{key}" for key in group.defaults]
    lines = [f"#### {', '.join(f'`{name}`' for name in names)}\n"]
    if group.comment:
        lines.append(f"{_cell(group.comment)}\n")
    lines.append("| setting | default | allowed | environment |\n|---|---|---|---|")
    for name, default in zip(names, group.defaults.values(), strict=True):
        variables = ", ".join(f"`{it}`" for it in _variables(name)) or "in the file alone"
        allowed = _cell(SETTINGS[name].allowed)
        lines.append(f"| `{name.partition('.')[2]}` | `{default}` | {allowed} | {variables} |")
    return "\n".join(lines) + "\n"


def _variables(name: str) -> Iterator[str]:
    if isinstance(SETTINGS[name], (Table, ByName)):
        return
    called = [variable for variable, (known, _) in WELL_KNOWN.items() if known == name]
    for variable in (PREFIX + name.replace(".", "_").upper(), *called):
        yield variable
        if SETTINGS[name].secret:
            yield f"{variable}_FILE"


def _cell(text: str) -> str:
    """Text that Markdown shows as it stands, also in a table; settings' names as code."""
    parts = _SETTING.split(text)
    parts[::2] = [re.sub(r"([|<>*_\[\]])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"`{name}`" for name in parts[1::2]]
    return "".join(parts)


def main() -> int:
    """Print the page for the file that is named."""
    print(document(Path(sys.argv[1]).read_text(encoding="utf-8")), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
