"""docs/configuration.md: made from the settings, and up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from downloadd.cli.reference import document
from downloadd.config import SETTINGS
from downloadd.config.sources import PREFIX, WELL_KNOWN

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "configuration.md"


@pytest.fixture(scope="module")
def page() -> str:
    return document((ROOT / "config.toml").read_text(encoding="utf-8"))


def test_the_page_is_up_to_date() -> None:
    """What is in the repository is what "make docs" makes of the settings as they are."""
    made = subprocess.run(
        [sys.executable, "-m", "downloadd.cli.reference", "config.toml"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert made.stdout == PAGE.read_bytes(), "make docs"


def test_every_setting_is_told_once(page: str) -> None:
    """With its default, what is allowed, and its variables; no well-known name is left out."""
    headings = [line for line in page.splitlines() if line.startswith("#### ")]
    assert [name for line in headings for name in re.findall("`([^`]+)`", line)] == list(SETTINGS)
    rows = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") >= 5]
    assert len(rows) == len(SETTINGS)
    for name, row in zip(SETTINGS, rows, strict=True):
        variable = PREFIX + name.replace(".", "_").upper()
        assert row.startswith(f"| `{name.partition('.')[2]}` | `")
        assert f"`{variable}`" in row or row.endswith("| in the file alone |"), name
        assert (f"`{variable}_FILE`" in row) == SETTINGS[name].secret
    for variable, (name, _) in WELL_KNOWN.items():
        assert f"`{variable}`" in rows[list(SETTINGS).index(name)]
        assert f"| `{variable}` | `{name}`" in page


def test_every_setting_is_explained(page: str) -> None:
    """Each heading is followed by words."""
    entries = page.split("\n#### ")[1:]
    assert [it.partition("\n")[0] for it in entries if not re.match(r".*\n\n[^|\n]", it)] == []


def test_texts_are_those_of_the_file() -> None:
    """Settings below one comment share it; other names of theirs, which lead it, are left out."""
    text = (
        "# Not of any setting.\n\n[server]\n# PORT and REDIS_URL, in milliseconds. what | it_is\n"
        "# to server.host\nhost = 1\nport = 2\n# Another.\npublic_url = 3\n"
    )
    assert "#### `server.host`, `server.port`\n\nWhat \\| it\\_is to `server.host`\n" in document(
        text
    )
    assert "#### `server.public_url`\n\nAnother.\n" in document(text)
