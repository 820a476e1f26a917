"""Hostile names: whatever files are called, unpacking the archive writes where it should."""

from __future__ import annotations

import os
import re
import subprocess
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.model import Source
from downloadd.naming import Names, archive_file_name, safe_name
from tests.integration.web.conftest import Server
from tests.origin import Origin
from tests.security.corpora import cases
from tests.tools import require_tool
from tests.unit.archive.rendering import pack, render, sealed


def _spelled(case: Any) -> str:
    return str(case) if isinstance(case, str) else str(case[0]) * int(case[1])


HOSTILE: list[str] = [_spelled(case) for case in cases("names.txt")]

#: Of Windows, by Microsoft's page, with every digit that it takes for one.
_DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[1-9¹²³])", re.IGNORECASE)


def test_there_are_as_many_as_asked_for(tried: Callable[[str, int], None]) -> None:
    tried("names", len(HOSTILE))
    assert len(HOSTILE) >= 200


def complaints(name: str) -> list[str]:
    """What is wrong with a name in an archive: written down once more, apart from the code."""
    wrong = {
        "its slashes": not name or name != name.strip("/") or "\\" in name,
        "its form": unicodedata.normalize("NFC", name) != name,
        "it is absolute": bool(PureWindowsPath(name).anchor) or name.startswith("/"),
        "its length": len(name.encode()) > 1300,
    }
    found = [what for what, is_so in wrong.items() if is_so]
    return found + [what for segment in name.split("/") for what in _complaints_of(segment)]


#: DerivedCoreProperties.txt of Unicode 16, Default_Ignorable_Code_Point, but for the
#: variation selectors, without which an emoji is another; and one that is drawn as nothing.
_IGNORABLE = (
    (0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x2060, 0x206F), (0x3164, 0x3164),
    (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
    (0xE0000, 0xE00FF), (0xE01F0, 0xE0FFF), (0x1D159, 0x1D159),
)  # fmt: skip
_BLANK = frozenset(chr(code) for first, last in _IGNORABLE for code in range(first, last + 1))


def _complaints_of(segment: str) -> list[str]:
    categories = {unicodedata.category(char) for char in segment}
    wrong = {
        "dots": set(segment) <= {".", " "},
        "its length": len(segment.encode()) > 255,
        "Windows' signs": re.search(r'[<>:"|?*]', segment) is not None,
        "its end": segment[-1:] in (".", " "),
        "a device": _DEVICE.fullmatch(segment.partition(".")[0].strip()) is not None,
        "invisible": bool(categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}),
        "blank": bool(set(segment) & {*_BLANK, "\u2800"}),
    }
    return [f"{what} in {segment!r}" for what, is_so in wrong.items() if is_so]


def settled(names: list[str]) -> list[str]:
    """What the files of one job are called, each by another of the ways in which it may be."""
    sources = [
        Source(url=f"https://files.example/{index}", name=name if index % 2 else None)
        for index, name in enumerate(names)
    ]
    book = Names(sources, reserved=["manifest.json"])
    return [book.settle(index, None if index % 2 else name) for index, name in enumerate(names)]


def folded(name: str) -> str:
    """What is one file to a file system that knows neither case nor form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def clashes(names: list[str]) -> list[str]:
    """Names that are another's, or another's folder."""
    keys = [folded(name) for name in names]
    folders = {key.rpartition("/")[0] for key in keys}
    folders |= {key[:place] for key in keys for place, char in enumerate(key) if char == "/"}
    found = [key for key in keys if key in folders - {""}]
    return found + sorted({key for key in keys if keys.count(key) > 1})


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_made_safe(name: str) -> None:
    """Alone, as a name, as a disposition, in a URL, as the archive's own."""
    made = safe_name(name)
    assert made is None or complaints(made) == [], made
    assert made is None or safe_name(made) == made
    for called in settled([name, name]):
        assert complaints(called) == [], called
    archive = archive_file_name(name)
    assert complaints(archive) == []
    assert "/" not in archive
    assert archive.lower().endswith(".zip")


def test_all_at_once_are_different() -> None:
    """No two are one on any file system, none is another's folder, and the manifest is its own."""
    for names in (HOSTILE, HOSTILE[::-1], HOSTILE * 2):
        called = settled(names)
        assert clashes([*called, "manifest.json"]) == []
        assert [it for it in called if complaints(it)] == []


@given(st.text(max_size=300))
def test_any_text_at_all(text: str) -> None:
    made = safe_name(text)
    assert made is None or complaints(made) == []


_SPITEFUL = st.text(alphabet=list("./\\ :aAß\u0130\u0307é\u0301\u202e\u200bCON1 ()2-"), max_size=24)


@given(st.lists(_SPITEFUL, max_size=12))
def test_any_list_at_all(names: list[str]) -> None:
    called = settled(names)
    assert clashes([*called, "manifest.json"]) == []
    assert [it for it in called if complaints(it)] == []


# --- unpacked -------------------------------------------------------------------------------

_TOOLS: dict[str, Callable[[Path, Path], list[str]]] = {
    "unzip": lambda archive, to: [require_tool("unzip"), "-q", "-o", str(archive), "-d", str(to)],
    "7z": lambda archive, to: [
        require_tool("7zz", "7z"),
        "x",
        "-y",
        "-bd",
        f"-o{to}",
        str(archive),
    ],
    "bsdtar": lambda archive, to: [require_tool("bsdtar"), "-xf", str(archive), "-C", str(to)],
}


def unpack(tool: str, archive: Path, to: Path) -> None:
    if tool == "python":
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(to)
        return
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        _TOOLS[tool](archive, to), capture_output=True, timeout=110, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("tool", [*_TOOLS, "python"])
def test_unpacked_it_stays_inside(tool: str, tmp_path: Path) -> None:
    """Each file is in the folder, once, with its own bytes; nothing else has changed anywhere."""
    around = tmp_path / "around"
    folder = around / "a" / "b" / "c" / "inside"
    folder.mkdir(parents=True)
    for place in (around, around / "a", around / "a" / "b", folder.parent):
        (place / "evil.txt").write_text("as it was")
        (place / ".bashrc").write_text("as it was")
    before = snapshot(around)

    names = settled(HOSTILE)
    files = [pack(index, name, f"file {index}".encode()) for index, name in enumerate(names)]
    archive = tmp_path / "hostile.zip"
    archive.write_bytes(render(sealed(files), files))
    unpack(tool, archive, folder)

    after = snapshot(around)
    inside = f"{folder.relative_to(around)}/"
    assert {name: raw for name, raw in after.items() if not name.startswith(inside)} == before
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    found = {
        name.removeprefix(inside): raw for name, raw in after.items() if name.startswith(inside)
    }
    there = {name: raw for name, raw in found.items() if (folder / name).is_file()}
    expected = {name: f"file {index}".encode() for index, name in enumerate(names)}
    assert there == expected


async def test_the_whole_way(server: Server, origin: Origin, tmp_path: Path) -> None:
    """A job of all of them, given, in URLs and in dispositions, ends with such an archive."""
    usable = [name for name in HOSTILE if name.isprintable() and 0 < len(name) <= 300][:300]
    files: list[dict[str, Any]] = []
    for index, name in enumerate(usable):
        told = {"disposition": f'attachment; filename="{name}"'} if index % 2 else {}
        url = origin.url(seed=index, size=9, n=index, **told)
        files.append({"url": url} if index % 2 else {"url": url, "name": name})
    refused = set()
    async with server.client.post("/v1/download/check", json={"files": files}) as response:
        answer = await response.json()
        if response.status == 400:
            refused = {int(field.split(".")[1]) for field in answer["details"]}
    files = [file for index, file in enumerate(files) if index not in refused]
    job = await server.initiate({"files": files, "options": {"manifest": True}})
    ended = await server.ended(job["jobId"])
    assert ended["status"] == "completed", ended.get("error")
    async with server.client.get(ended["downloadUrl"]) as response:
        (tmp_path / "a.zip").write_bytes(await response.read())
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        names = opened.namelist()
    assert len(names) == len(files) + 1
    assert [name for name in names if complaints(name)] == []
    assert clashes(names) == []


def test_nothing_that_is_not_to_be_seen() -> None:
    """Each by itself, between letters, and alone."""
    for char in _BLANK:
        assert safe_name(f"a{char}b.txt") == "ab.txt", hex(ord(char))
        assert safe_name(char) is None, hex(ord(char))
    for selector in "\ufe0f\U000e0100\u180b":
        assert safe_name(f"a/{selector}") == "a"
        assert safe_name(selector) is None
    # Between words in Braille; anywhere else it would hide.
    assert safe_name("\u2813\u2800\u2811") == "\u2813 \u2811"
    assert safe_name("a\u2800") == "a"
    assert safe_name("\u2800") is None
