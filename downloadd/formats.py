"""Whether a file's first bytes fit its name and media type.

A small table of formats whose beginnings are certain, rather than a library:
the point is to see an error page that is called ``report.pdf``, for every
file and without false alarms, not to name every format there is. (puremagic
takes 160 µs a call where this takes about 1, and guesses from weak marks.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

#: How many of a file's first bytes are worth passing.
HEAD_SIZE = 4096

#: What a file begins with, by the name of what it then is.
_SIGNATURES: tuple[tuple[str, bytes], ...] = (
    ("PDF", b"%PDF-"),
    ("PostScript", b"%!PS"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("JPEG", b"\xff\xd8\xff"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("TIFF", b"II*\x00"),
    ("TIFF", b"II+\x00"),
    ("TIFF", b"MM\x00*"),
    ("TIFF", b"MM\x00+"),
    ("Photoshop", b"8BPS\x00"),
    ("ZIP", b"PK\x03\x04"),
    ("ZIP", b"PK\x05\x06"),
    ("ZIP", b"PK\x07\x08"),
    ("gzip", b"\x1f\x8b\x08"),
    ("bzip2", b"BZh"),
    ("xz", b"\xfd7zXZ\x00"),
    ("Zstandard", b"\x28\xb5\x2f\xfd"),
    ("7z", b"7z\xbc\xaf\x27\x1c"),
    ("RAR", b"Rar!\x1a\x07"),
    ("Office 97", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    ("RTF", b"{\\rtf"),
    ("ELF", b"\x7fELF"),
    ("Windows program", b"MZ"),
    ("Matroska", b"\x1a\x45\xdf\xa3"),
    ("Ogg", b"OggS\x00"),
    ("FLAC", b"fLaC\x00"),
    ("ID3", b"ID3"),
    ("SQLite", b"SQLite format 3\x00"),
    ("Parquet", b"PAR1"),
    ("Parquet", b"PARE"),
    ("WOFF", b"wOFF"),
    ("WOFF2", b"wOF2"),
)

#: A mark further in, after the bytes every RIFF file and MP4 box begins with.
_RIFF = {b"WEBP": "WebP", b"WAVE": "WAV", b"AVI ": "AVI"}

#: What a text might begin with by accident needs more to be believed.
_CONFIRM: Mapping[str, Callable[[bytes], bool]] = {
    "bzip2": lambda head: head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"),
    "Windows program": lambda head: b"\x00" in head[:64],
    "ID3": lambda head: head[3:4] < b"\x10",
}

_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?>(?:<\?xml[^>]*>\s*)?(?:<!--(?s:.*?)-->\s*)*)"
    rb"<(?:!doctype\s+html|html|head|body|script|title)[\s>]",
    re.IGNORECASE,
)


def _by_first_byte() -> Mapping[int, tuple[tuple[str, bytes], ...]]:
    table: dict[int, tuple[tuple[str, bytes], ...]] = {}
    for kind, magic in _SIGNATURES:
        table[magic[0]] = (*table.get(magic[0], ()), (kind, magic))
    return table


_BY_FIRST_BYTE = _by_first_byte()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Expected:
    """What a file of one extension may be."""

    label: str
    #: The formats that it may turn out to be.
    kinds: frozenset[str] = field(default_factory=frozenset)
    #: Every such file begins with the mark of one of them.
    marked: bool = True


def _expect(label: str, *kinds: str, marked: bool = True) -> _Expected:
    return _Expected(label=label, kinds=frozenset(kinds or (label,)), marked=marked)


def _text(label: str) -> _Expected:
    """A text that begins with no format's mark, and with no tag either."""
    return _Expected(label=label, marked=False)


_OFFICE = _expect("Office", "ZIP", "Office 97")  # the latter where it is encrypted
_ZIPPED = _expect("ZIP-based", "ZIP")
_MP4 = _expect("MPEG-4", marked=False)
_PROGRAM = _expect("Windows program", marked=False)

#: Extensions that say enough; of any other nothing is said.
_EXTENSIONS: Mapping[str, _Expected] = {
    "pdf": _expect("PDF", "PDF", "PostScript"),
    "png": _expect("PNG"),
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif"), _expect("JPEG")),
    "gif": _expect("GIF"),
    "webp": _expect("WebP"),
    **dict.fromkeys(("tif", "tiff"), _expect("TIFF")),
    "psd": _expect("Photoshop"),
    "zip": _expect("ZIP", "ZIP", "Windows program"),  # one that unpacks itself
    **dict.fromkeys(("gz", "tgz"), _expect("gzip")),
    **dict.fromkeys(("bz2", "tbz2"), _expect("bzip2")),
    **dict.fromkeys(("xz", "txz"), _expect("xz")),
    "zst": _expect("Zstandard"),
    "7z": _expect("7z"),
    "rar": _expect("RAR", "RAR", "Windows program"),
    **dict.fromkeys(("docx", "docm", "xlsx", "xlsm", "pptx", "pptm"), _OFFICE),
    **dict.fromkeys(("odt", "ods", "odp", "epub", "apk"), _ZIPPED),
    **dict.fromkeys(("mkv", "webm"), _expect("Matroska")),
    **dict.fromkeys(("ogg", "oga", "ogv", "opus"), _expect("Ogg")),
    "parquet": _expect("Parquet"),
    "woff": _expect("WOFF"),
    "woff2": _expect("WOFF2"),
    # Begins with a script where it runs itself.
    "jar": _expect("Java archive", "ZIP", marked=False),
    # Known to hold RTF, HTML and even text in practice.
    **dict.fromkeys(
        ("doc", "xls"), _expect("Office 97", "Office 97", "RTF", "HTML", "ZIP", marked=False)
    ),
    "ppt": _expect("Office 97", "Office 97", "ZIP", "HTML", marked=False),
    "rtf": _expect("RTF", marked=False),
    "tar": _expect("tar", marked=False),  # the oldest have no mark
    **dict.fromkeys(("mp4", "m4a", "m4v", "mov", "3gp", "heic", "heif", "avif"), _MP4),
    "mp3": _expect("MP3", "ID3", "WAV", marked=False),
    "flac": _expect("FLAC", "FLAC", "ID3", marked=False),
    "wav": _expect("WAV", marked=False),
    "avi": _expect("AVI", marked=False),
    **dict.fromkeys(("sqlite", "sqlite3"), _expect("SQLite", marked=False)),
    **dict.fromkeys(("exe", "dll"), _PROGRAM),
    "csv": _text("CSV"),
    "tsv": _text("TSV"),
    **dict.fromkeys(("json", "geojson"), _text("JSON")),
}

#: Media types that say as much as an extension does. Servers send
#: ``text/html`` and ``application/octet-stream`` for everything.
_MEDIA_TYPES: Mapping[str, str] = {
    "application/pdf": "pdf",
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/tiff": "tif",
    "image/heic": "heic",
    "image/avif": "avif",
    "application/zip": "zip",
    "application/gzip": "gz",
    "application/x-7z-compressed": "7z",
    "application/vnd.rar": "rar",
    "application/epub+zip": "epub",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "audio/mpeg": "mp3",
    "audio/flac": "flac",
    "application/json": "json",
    "text/csv": "csv",
}


def mismatch(name: str, content_type: str | None, head: bytes) -> str | None:
    """Say how a file's first bytes contradict its name, else its media type.

    ``head`` is the first ``HEAD_SIZE`` bytes, or all of a shorter file;
    ``content_type`` is without parameters. The media type counts only where
    the extension says nothing, because servers know it less well. None where
    they agree or nothing can be said; an empty file contradicts nothing.
    """
    if not head:
        return None
    expected, told_by = _promised(name, content_type)
    if expected is None:
        return None
    kind = _kind(head)
    if kind in expected.kinds or (kind is None and not _is_marked(expected, head)):
        return None
    found = f"like {kind}" if kind else "otherwise"
    return f"{told_by} promises {expected.label}, but the file begins {found}."


def _promised(name: str, content_type: str | None) -> tuple[_Expected | None, str]:
    """What the file should be, and what says so."""
    _, dot, extension = name.rpartition(".")
    extension = extension.lower()
    if dot and extension in _EXTENSIONS:
        return _EXTENSIONS[extension], f'".{extension}"'
    content_type = (content_type or "").lower()
    return _EXTENSIONS.get(_MEDIA_TYPES.get(content_type, "")), content_type


def _is_marked(expected: _Expected, head: bytes) -> bool:
    """Whether a file that begins like nothing known should have begun with a mark."""
    # Readers of PDF look for its mark in the first 1,024 bytes.
    late = "PDF" in expected.kinds and b"%PDF-" in head[:1024]
    return expected.marked and not late


def _kind(head: bytes) -> str | None:
    """The format that these bytes are certainly the beginning of."""
    for kind, magic in _BY_FIRST_BYTE.get(head[0], ()):
        if head.startswith(magic) and (kind not in _CONFIRM or _CONFIRM[kind](head)):
            return kind
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return "MPEG-4"
    if head[257:262] == b"ustar":
        return "tar"
    return "HTML" if _HTML.match(head) else None
