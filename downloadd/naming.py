"""Names in the archive: safe on every system that unpacks it, and unique.

The rules are those of SPEC §4, after Microsoft's "Naming Files, Paths, and
Namespaces" (the strictest of the file systems), the 255 bytes that POSIX
systems allow a segment, and RFC 6266 §4.3 for ``Content-Disposition``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import unquote_to_bytes, urlsplit

from downloadd.model import Source

_MAX_SEGMENT = 255
#: Bytes of a whole path. Numbers that make names unique come on top.
_MAX_PATH = 1_000

_SEPARATORS = re.compile(r"[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:")
_FORBIDDEN = re.compile(r'[<>:"|?*]')
#: ".tar" belongs to the extension behind it.
_EXTENSION = re.compile(r"(?:\.tar)?\.\w{1,16}\Z", re.IGNORECASE)

#: Control and format characters (bidi, zero-width), surrogates, line and
#: paragraph separators: invisible, or able to make a name look like another.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: What else is nothing to be seen (Default_Ignorable_Code_Point of UAX #44): fillers of
#: Hangul and Khmer, the grapheme joiner, code points kept for more of the kind; and
#: a note's head that is drawn as nothing.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u2065\u3164\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff\U0001d159]"
)
#: What stands between words in Braille, and is no space to anybody else.
_BRAILLE_SPACE = "\u2800"
#: They say how a character is drawn, and may be left out: of Mongolian, of emoji, of others.
_VARIATIONS = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
#: Combining marks in a row, as in the Stream-Safe Text Format (UAX #15).
_MAX_MARKS = 30
_SPACES = "".join(char for char in map(chr, range(0x10000)) if unicodedata.category(char) == "Zs")

_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{port}{digit}" for port in ("COM", "LPT") for digit in "123456789¹²³"],
)


def safe_name(raw: str) -> str | None:
    """Make a path out of whatever somebody calls a file; None when nothing is left.

    The result is relative, has forward slashes, no ``.`` or ``..``, no drive,
    no invisible character, nothing that Windows refuses, is NFC, and has at
    most 255 bytes a segment and 1,000 in all: long segments are cut
    before their extension, deep paths lose their innermost folders.
    """
    segments = [segment for part in _parts(raw) if (segment := _safe_segment(part))]
    if not segments:
        return None
    *folders, file = segments
    return "/".join([*_fitting(folders, _MAX_PATH - _length(file)), file])


def archive_file_name(raw: str) -> str:
    """Make the name under which a user saves the archive: one segment, ending with ``.zip``."""
    name = (safe_name(raw) or "download").rpartition("/")[2]
    return name if name.lower().endswith(".zip") else _shortened(name, ".zip")


class Names:
    """Gives every file of one job its own name in the archive.

    Names that are known before anything is fetched (the one given, the URL's,
    the id) are planned for all files in the order asked for, so that equal
    ones are numbered the same way however the fetching goes. A name that the
    source sends is fitted in between when its file is finished.

    Two names are the same when they differ in nothing but case, Unicode form
    or variation selectors; and no file has the name of another's folder.
    """

    def __init__(self, sources: Sequence[Source], reserved: Sequence[str] = ()) -> None:
        #: Who has a file name, by its key; None for the reserved ones.
        self._files: dict[str, int | None] = {_key(name): None for name in reserved}
        self._folders: set[str] = set()
        #: The number to try next, by the key of the name without one.
        self._numbers: dict[str, int] = {}
        self._settled: dict[int, str] = {}
        given = [safe_name(source.name) if source.name else None for source in sources]
        self._is_given = [name is not None for name in given]
        self._planned: list[str] = []
        for index, source in enumerate(sources):
            wanted = given[index] or _name_from_url(source.url) or _name_from_id(source, index)
            self._planned.append(self._claim(index, wanted))

    def planned(self, index: int) -> str:
        """The name that a file has unless its source calls it otherwise."""
        return self._planned[index]

    def settle(self, index: int, disposition: str | None) -> str:
        """Decide a file's name for good; a second call gives the same again.

        ``disposition`` is the raw file name from ``Content-Disposition``; it
        counts when the caller gave no name, and only its last segment does.
        """
        if index not in self._settled:
            wanted = None
            if disposition and not self._is_given[index]:
                wanted = _last_segment(disposition)
            self._settled[index] = self._claim(index, wanted or self._planned[index])
        return self._settled[index]

    def restore(self, index: int, name: str) -> None:
        """Take over a name that was settled before a restart.

        It stays that file's even where these rules would now plan it for
        another, whose name is then numbered when it settles.
        """
        self._settled[index] = name
        self._register(index, name)

    def _claim(self, index: int, wanted: str) -> str:
        name = self._unique(index, wanted)
        self._register(index, name)
        return name

    def _register(self, index: int, name: str) -> None:
        self._files[_key(name)] = index
        self._folders.update(_key(folder) for folder in _folders_of(name))

    def _unique(self, index: int, wanted: str) -> str:
        *folders, file = wanted.split("/")
        path = ""
        for folder in folders:
            path = self._numbered(path + folder, self._is_file) + "/"
        return self._numbered(path + file, lambda key: self._is_taken(key, index))

    def _is_file(self, key: str) -> bool:
        return key in self._files

    def _is_taken(self, key: str, index: int) -> bool:
        return key in self._folders or self._files.get(key, index) != index

    def _numbered(self, path: str, clashes: Callable[[str], bool]) -> str:
        """Return the path, with the first number that makes it free where it is not."""
        key = _key(path)
        if not clashes(key):
            return path
        number = self._numbers.get(key, 2)
        while clashes(_key(candidate := _with_number(path, number))):
            number += 1
        self._numbers[key] = number
        return candidate


def _parts(raw: str) -> list[str]:
    """Cut a path at either system's separators, freed of what cannot be seen."""
    if not (raw.isascii() and raw.isprintable()):
        raw = unicodedata.normalize("NFC", "".join(_visible(raw)))
    return [part for part in _SEPARATORS.split(raw) if not _DRIVE.fullmatch(part)]


def _visible(raw: str) -> Iterator[str]:
    """The characters that can be seen, with no pile of accents beyond all writing.

    Bringing a run of combining marks into order takes time with its square.
    """
    run = 0
    for char in raw:
        if unicodedata.category(char) not in _INVISIBLE and not _BLANK.match(char):
            run = run + 1 if unicodedata.combining(char) else 0
            if run <= _MAX_MARKS:
                yield " " if char == _BRAILLE_SPACE else char


def _safe_segment(part: str) -> str:
    """Make one segment safe; the empty string when nothing is left of it."""
    segment = _FORBIDDEN.sub("_", _stripped(part))
    if not _VARIATIONS.sub("", segment):
        return ""
    segment = _unlike_device(segment)
    if _length(segment) > _MAX_SEGMENT:
        cut = _shortened(*_split_extension(segment))
        segment = _unlike_device(_stripped(cut))
    return segment


def _stripped(segment: str) -> str:
    """Without the spaces around it, and the dots behind it that Windows drops."""
    return segment.lstrip(_SPACES).rstrip(_SPACES + ".")


def _unlike_device(segment: str) -> str:
    """Windows takes ``con``, ``CON.txt`` and even ``con .txt`` for the console."""
    stem = segment.partition(".")[0].rstrip()
    return f"_{segment}" if stem.upper() in _DEVICES else segment


def _split_extension(segment: str) -> tuple[str, str]:
    found = _EXTENSION.search(segment)
    # ".profile" is a name, not an extension.
    if found is None or found.start() == 0:
        return segment, ""
    return segment[: found.start()], found.group()


def _shortened(stem: str, tail: str) -> str:
    """Join, with no more of the stem than a segment has room for."""
    room = _MAX_SEGMENT - _length(tail)
    if _length(stem) <= room:
        return stem + tail
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip() + tail


def _with_number(path: str, number: int) -> str:
    parent, slash, segment = path.rpartition("/")
    stem, extension = _split_extension(segment)
    return parent + slash + _shortened(stem, f" ({number}){extension}")


def _fitting(folders: Sequence[str], room: int) -> Iterator[str]:
    """The outermost folders that fit into so many bytes, a slash behind each."""
    for folder in folders:
        room -= _length(folder) + 1
        if room < 0:
            return
        yield folder


def _folders_of(name: str) -> Iterator[str]:
    """Every folder on the way to a file: of ``a/b/c``, ``a/b`` and ``a``."""
    while name := name.rpartition("/")[0]:
        yield name


def _name_from_url(url: str) -> str | None:
    try:
        path = urlsplit(url).path
    except ValueError:
        # Not a URL; who fetches it says so better than a name could.
        return None
    return _last_segment(_decoded(path.rstrip("/").rpartition("/")[2]))


def _decoded(segment: str) -> str:
    """Undo percent-encoding; what is not UTF-8 is taken for Latin-1."""
    raw = unquote_to_bytes(segment.encode("utf-8", "replace"))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _name_from_id(source: Source, index: int) -> str:
    return f"file-{index + 1}" if source.file_id is None else str(source.file_id)


def _last_segment(raw: str) -> str | None:
    name = safe_name(raw)
    return name.rpartition("/")[2] if name else None


def _length(text: str) -> int:
    return len(text.encode())


def _key(name: str) -> str:
    """What is the same for names that some file system takes for one (Unicode D145)."""
    if name.isascii():
        return name.lower()
    folded = unicodedata.normalize("NFD", _VARIATIONS.sub("", name)).casefold()
    return unicodedata.normalize("NFC", folded)
