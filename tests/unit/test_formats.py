"""First bytes against name and media type."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.formats import mismatch

_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"
_HTML = b"<!DOCTYPE html>\n<html><body>Sorry</body></html>"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)
_MP4 = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00"
_EXE = b"MZ\x90\x00\x03\x00\x00\x00"


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"b")
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


_ZIP, _TAR, _GZIP = _zip(), _tar(), gzip.compress(b"text", mtime=0)


@pytest.mark.parametrize(
    ("name", "head", "begins"),
    [
        ("report.pdf", _HTML, "like HTML"),
        ("report.PDF", b"\xef\xbb\xbf\n <!-- a -->\n<!-- b --><HTML lang=en>", "like HTML"),
        ("report.pdf", b'<?xml version="1.0"?>\n<html xmlns="x">', "like HTML"),
        ("report.pdf", b'{"error": "not found"}', "otherwise"),
        ("report.pdf", _HTML.replace(b"Sorry", b"%PDF- is missing"), "like HTML"),
        ("report.pdf", _PNG, "like PNG"),
        ("picture.png", _ZIP, "like ZIP"),
        ("picture.png", b"\x89PNG", "otherwise"),
        ("photo.jpg", b"RIFF\x24\x00\x00\x00WEBPVP8 ", "like WebP"),
        ("a/b.d/book.xlsx", _PDF, "like PDF"),
        ("archive.zip", b"Not Found", "otherwise"),
        ("archive.tar.gz", _TAR, "like tar"),
        ("data.csv", _GZIP, "like gzip"),
        ("data.json", _HTML, "like HTML"),
        ("table.xls", _PDF, "like PDF"),
        ("film.mp4", _HTML, "like HTML"),
        ("song.mp3", _EXE, "like Windows program"),
    ],
)
def test_contradictions(name: str, head: bytes, begins: str) -> None:
    """What is clearly something else is told, with the extension and what it looks like."""
    sentence = mismatch(name, None, head)
    assert sentence is not None
    assert sentence.endswith(f"but the file begins {begins}.")
    assert sentence.startswith(f'".{name.rpartition(".")[2].lower()}" promises')


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("report.pdf", _PDF),
        ("report.pdf", b"\r\n" * 100 + _PDF),
        ("report.pdf", b"<br />\n<b>Warning</b>: x in <b>y.php</b>\n" + _PDF),
        ("report.pdf", b""),
        ("picture.png", _PNG),
        ("archive.zip", _ZIP),
        ("archive.zip", _EXE + bytes(100)),
        ("letter.docx", _ZIP),
        ("letter.docx", _OLE),
        ("letter.doc", b"{\\rtf1\\ansi"),
        ("table.xls", _HTML),
        ("table.xls", b"a\tb\n"),
        ("program.jar", b"#!/bin/sh\nexec java -jar $0\n"),
        ("program.jar", _ZIP),
        ("archive.tar", _TAR),
        ("archive.tar", bytes(512)),
        ("film.mp4", _MP4),
        ("film.mov", b"\x00\x00\x00\x08wide"),
        ("song.mp3", b"ID3\x04\x00"),
        ("song.mp3", b"\xff\xfb\x90\x64"),
        ("song.flac", b"fLaC\x00\x00\x00\x22"),
        ("data.csv", b"MZ;BZh;ID3\n1;2;3\n"),
        ("data.csv", b"ID3,name\n1,2\n"),
        ("data.csv", b"BZhx,name\n1,2\n"),
        ("data.json", json.dumps({"a": 1}).encode()),
        # Nothing is said of text, nor of what is not known.
        ("notes.txt", _HTML),
        ("notes.txt", _PDF),
        ("page.html", _PDF),
        ("data.bin", _HTML),
        ("LICENSE", _HTML),
        ("pdf", _PNG),
    ],
)
def test_no_false_alarm(name: str, head: bytes) -> None:
    """What agrees, or could, or is unknown, is let pass."""
    assert mismatch(name, None, head) is None


def test_media_type_counts_where_the_extension_says_nothing() -> None:
    """A known extension wins over the media type, which servers know less well."""
    assert mismatch("70000", "application/pdf", _PDF) is None
    assert mismatch("70000", "Application/PDF", _HTML) == (
        "application/pdf promises PDF, but the file begins like HTML."
    )
    assert mismatch("70000.pdf", "text/html", _PDF) is None
    assert mismatch("70000.png", "application/pdf", _PNG) is None
    assert mismatch("70000", "application/octet-stream", _HTML) is None
    assert mismatch("70000", "text/html", _PDF) is None


@given(st.text(), st.text() | st.none(), st.binary(max_size=600))
def test_any_input(name: str, content_type: str | None, head: bytes) -> None:
    """Nothing makes the check fail."""
    sentence = mismatch(name, content_type, head)
    assert sentence is None or sentence.endswith(".")


def test_random_bytes_of_unmarked_formats() -> None:
    """Noise looks like no format, so an MP3 without a tag is not taken for another."""
    noise = random.Random(4)
    alarms = sum(
        mismatch("song.mp3", None, noise.randbytes(4096)) is not None for _ in range(5_000)
    )
    assert alarms <= 2  # "MZ" and a zero byte come once in 300,000


def test_hostile_comments_are_cheap() -> None:
    """A page made of comments does not make the search for a tag go on for ever."""
    assert mismatch("a.pdf", None, b"<!---->" * 20_000 + b"<p>") is not None
