"""Archives read by the tools that users have: none may complain."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from isal import isal_zlib

from downloadd.archive import Entry, Layout, Method, PayloadSlice
from tests.tools import require_tool
from tests.unit.archive.rendering import Packed, pack, render, sealed

_GIB = 1 << 30
_TEXT = b"".join(b"line %d of a text that shrinks\n" % number for number in range(2_000))

#: How each tool is asked to read a whole archive.
_TOOLS: dict[str, Callable[[Path], list[str]]] = {
    "unzip": lambda path: [require_tool("unzip"), "-t", str(path)],
    "zipinfo": lambda path: [require_tool("zipinfo"), "-v", str(path)],
    "7z": lambda path: [require_tool("7zz", "7z"), "t", "-bd", str(path)],
    "bsdtar": lambda path: [require_tool("bsdtar"), "-tvf", str(path)],
    "zip": lambda path: [require_tool("zip"), "-T", str(path)],
}

_NAMES = [
    "plain.txt",
    "folder/deeper/name with spaces.txt",
    "día/naïve.txt",
    "日本語/資料.txt",
    "отчёт.txt",
    "שלום.txt",
    "नमस्ते.txt",
    "😀.txt",
    "-dash.txt",
    "x" * 251 + ".txt",
]


def _mixed() -> list[Packed]:
    """Stored and deflated entries, empty ones, out of the order asked for."""
    files = [
        pack(
            index,
            name,
            b"" if index % 5 == 4 else _TEXT[: 1_000 * index],
            method=Method.DEFLATED if index % 2 else Method.STORED,
        )
        for index, name in enumerate(_NAMES)
    ]
    return [*files[5:], *files[:5], pack(-1, "manifest.json", b"{}\n", method=Method.DEFLATED)]


def _thousand() -> list[Packed]:
    return [
        pack(index, f"folder-{index % 7}/file-{index}.bin", os.urandom(index))
        for index in range(1_000)
    ]


def _check(tool: str, path: Path) -> str:
    """Have a tool read the archive; fail on any sign of displeasure. Returns its output."""
    command = _TOOLS[tool](path)
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, timeout=110, env=environment, check=False)
    output = done.stdout.decode("utf-8", "replace")
    complaints = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, output[-2_000:] + complaints
    assert complaints == ""
    assert not re.search(r"warning|error(?!s detected)|mismatch", output, re.IGNORECASE)
    return output


@pytest.mark.parametrize("tool", _TOOLS)
@pytest.mark.parametrize("make", [_mixed, _thousand], ids=["mixed", "thousand"])
def test_tools_read_it(tmp_path: Path, tool: str, make: Callable[[], list[Packed]]) -> None:
    """Every tool reads stored, deflated and empty entries of any name without a word."""
    files = make()
    path = tmp_path / "archive.zip"
    path.write_bytes(render(sealed(files), files))
    _check(tool, path)


def test_python_reads_it(tmp_path: Path) -> None:
    """zipfile finds every CRC right, and the names as they were."""
    files = _mixed()
    path = tmp_path / "archive.zip"
    path.write_bytes(render(sealed(files), files))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [*_NAMES, "manifest.json"]


def test_unzip_restores_names_bytes_and_times(tmp_path: Path) -> None:
    """What unzip writes has the names, content, mode and UTC times that were packed."""
    files = _mixed()
    path = tmp_path / "archive.zip"
    path.write_bytes(render(sealed(files), files))
    subprocess.run(
        [require_tool("unzip"), "-q", str(path), "-d", str(tmp_path / "out")],
        check=True,
        env=os.environ | {"LC_ALL": "C.UTF-8", "TZ": "Asia/Kolkata"},
    )
    for index, name in enumerate(_NAMES):
        unpacked = tmp_path / "out" / name
        assert unpacked.read_bytes() == (b"" if index % 5 == 4 else _TEXT[: 1_000 * index])
        assert unpacked.stat().st_mtime == 1_700_000_000
        assert unpacked.stat().st_mode & 0o777 == 0o644


def test_empty_archive(tmp_path: Path) -> None:
    """An archive of nothing is valid where a tool takes such archives at all."""
    path = tmp_path / "archive.zip"
    path.write_bytes(render(sealed([]), []))
    _check("7z", path)
    _check("bsdtar", path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def _zeros(index: int, size: int) -> Entry:
    crc = 0
    chunk = bytes(1 << 20)
    for _ in range(size >> 20):
        crc = isal_zlib.crc32(chunk, crc)
    crc = isal_zlib.crc32(bytes(size & ((1 << 20) - 1)), crc)
    return Entry(
        index=index,
        name=f"zeros-{index}.bin",
        method=Method.STORED,
        crc32=crc,
        size=size,
        packed_size=size,
        modified=1_700_000_000.0,
    )


def _write_sparse(path: Path, entries: Sequence[Entry]) -> None:
    """Write an archive of zeros without writing the zeros."""
    layout = Layout()
    for entry in entries:
        layout.append(entry)
    layout.seal()
    with path.open("wb") as file:
        for piece in layout.slices(0, layout.size):
            if isinstance(piece, PayloadSlice):
                file.seek(piece.length, os.SEEK_CUR)
            else:
                file.write(piece)
    assert path.stat().st_size == layout.size


_LARGE_ENTRY = [4 * _GIB + 5, 10]
_LARGE_ARCHIVE = [2 * _GIB, 2 * _GIB - 100, 7, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "sizes"),
    [
        # unzip takes 20 s for 4 GiB; the others see to the second kind.
        *[(tool, _LARGE_ENTRY) for tool in ("unzip", "zipinfo", "7z", "bsdtar")],
        *[(tool, _LARGE_ARCHIVE) for tool in ("zipinfo", "7z", "bsdtar")],
    ],
)
def test_beyond_4_gib(tmp_path: Path, tool: str, sizes: list[int]) -> None:
    """An entry over 4 GiB, and small entries behind 4 GiB, are read without a word."""
    path = tmp_path / "archive.zip"
    _write_sparse(path, [_zeros(index, size) for index, size in enumerate(sizes)])
    _check(tool, path)
    with zipfile.ZipFile(path) as archive:
        assert [info.file_size for info in archive.infolist()] == sizes
        assert archive.read(f"zeros-{len(sizes) - 1}.bin") == bytes(sizes[-1])


def test_65_535_entries_and_more(tmp_path: Path) -> None:
    """More entries than the classic end record can count are all listed."""
    count = 66_000
    files = [pack(index, f"{index}.txt", b"") for index in range(count)]
    path = tmp_path / "archive.zip"
    path.write_bytes(render(sealed(files), files))
    assert f"Files: {count}\n" in _check("7z", path)
    assert _check("bsdtar", path).count("\n") == count
    assert _check("unzip", path).count(" OK\n") == count
