"""Names in the archive."""

from __future__ import annotations

import unicodedata
from pathlib import PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.model import Source
from downloadd.naming import Names, archive_file_name, safe_name

_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{port}{digit}" for port in ("COM", "LPT") for digit in "123456789¹²³"
}


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("2024/report.pdf", "2024/report.pdf"),
        ("2024\\report.pdf", "2024/report.pdf"),
        ("/etc/passwd", "etc/passwd"),
        ("../../etc/passwd", "etc/passwd"),
        ("a/./b/../c", "a/b/c"),
        ("..\\..\\x", "x"),
        (".\u200b./x", "x"),
        ("C:\\Users\\me\\x.pdf", "Users/me/x.pdf"),
        ("C:x.pdf", "C_x.pdf"),
        ("\\\\server\\share\\x.pdf", "server/share/x.pdf"),
        ("x.pdf:hidden", "x.pdf_hidden"),
        ('a<b>c"d|e?f*g', "a_b_c_d_e_f_g"),
        ("a\r\n\x00\x7f.txt", "a.txt"),
        ("gpj.\u202efdp.exe", "gpj.fdp.exe"),
        ("a\ud800b", "ab"),
        ("e\u0301.txt", "é.txt"),
        ("e\u200d\u0301.txt", "é.txt"),
        ("  name . . ", "name"),
        (".htaccess", ".htaccess"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("con .txt", "_con .txt"),
        ("aux.tar.gz", "_aux.tar.gz"),
        ("COM¹.log", "_COM¹.log"),
        ("conin$", "_conin$"),
        ("nul/a", "_nul/a"),
        ("console.txt", "console.txt"),
        ("COM10", "COM10"),
        ("folder/", "folder"),
        ("日本語　資料.pdf", "日本語　資料.pdf"),
        ("שלום.txt", "שלום.txt"),
        ("", None),
        ("...", None),
        ("/../ . /", None),
        ("\u202e\u200b", None),
        ("C:", None),
    ],
)
def test_safe(raw: str, safe: str | None) -> None:
    """Every rule of SPEC §4, by example."""
    assert safe_name(raw) == safe


_TRICKY = st.text(
    st.one_of(
        st.sampled_from('/\\.:. <>|?*"\u202e\u200d\u0301\ufeff\ud800\x00\x85CONcomlpt1¹$ß\u037e≮'),
        st.characters(),
    ),
    max_size=40,
)


def _assert_safe(name: str) -> None:
    assert not name.startswith("/")
    assert len(name.encode()) <= 1_024
    assert unicodedata.is_normalized("NFC", name)
    assert not {unicodedata.category(char) for char in name} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not set(name) & set('\\<>:"|?*')
    assert not PureWindowsPath(name).is_absolute()
    for segment in name.split("/"):
        assert segment not in ("", ".", "..")
        assert len(segment.encode()) <= 255
        assert segment == segment.lstrip()
        assert segment == segment.rstrip(". ")
        assert segment.partition(".")[0].rstrip().upper() not in _DEVICES


@given(_TRICKY | st.lists(_TRICKY, max_size=60).map("/".join))
def test_safe_of_anything(raw: str) -> None:
    """Whatever comes in, what comes out breaks no rule, and is left alone next time."""
    name = safe_name(raw)
    if name is not None:
        _assert_safe(name)
        assert safe_name(name) == name


@given(
    st.sampled_from(["a", "é", "日", "😀", ".", "a ", "con"]),
    st.integers(80, 400),
    st.sampled_from(["", ".pdf", ".tar.gz", ".日本語", ". x", " .txt"]),
)
def test_long_names_keep_their_extension(unit: str, count: int, extension: str) -> None:
    """A segment over 255 bytes is cut before its extension, between characters."""
    raw = unit * count + extension
    name = safe_name(raw)
    if name is not None:
        _assert_safe(name)
    if extension in (".pdf", ".tar.gz", ".日本語") and unit in "aé日😀":
        assert name is not None
        stem = name.removesuffix(extension)
        assert stem + extension == name
        assert set(stem) == {unit}
        assert len(name.encode()) > 255 - 4 or raw == name


def test_device_name_made_by_cutting() -> None:
    """A name that becomes a device's only once it is cut is made harmless too."""
    assert safe_name("con" + " " * 300 + "x.txt") == "_con.txt"
    cut = safe_name("con." + "x" * 300)
    assert cut is not None
    assert cut.startswith("_con.x")
    _assert_safe(cut)


def test_deep_paths_lose_inner_folders() -> None:
    """A path over 1,000 bytes keeps its outermost folders and its file name."""
    name = safe_name("/".join([*(f"folder-{number:03}" for number in range(200)), "file.txt"]))
    assert name is not None
    assert name.startswith("folder-000/folder-001/")
    assert name.endswith("/file.txt")
    assert 900 < len(name) <= 1_000


@pytest.mark.parametrize(
    "unit", [".", " ", ". ", "a.", "/", "\\.", "\u202e", "\u0301\u0316", "😀.tar"]
)
def test_hostile_lengths_are_cheap(unit: str) -> None:
    """A name of a million characters takes no more than its length's share of time."""
    name = safe_name(unit * (1_000_000 // len(unit)) + "x.pdf")
    assert name is not None
    _assert_safe(name)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("order-4711.zip", "order-4711.zip"),
        ("order.ZIP", "order.ZIP"),
        ("order", "order.zip"),
        ("a/b\\order.pdf", "order.pdf.zip"),
        ("../..", "download.zip"),
        ("", "download.zip"),
        ("x" * 300, "x" * 251 + ".zip"),
        ("x" * 300 + ".zip", "x" * 251 + ".zip"),
    ],
)
def test_archive_file_name(raw: str, name: str) -> None:
    """The archive's own name is one safe segment with its extension."""
    assert archive_file_name(raw) == name


def _named(*names: str | None) -> list[Source]:
    return [Source(url="https://h.example/", name=name) for name in names]


def _planned(sources: list[Source], *reserved: str) -> list[str]:
    names = Names(sources, reserved=reserved)
    return [names.planned(index) for index in range(len(sources))]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (Source(url="https://h.example/a/b.pdf?x=/c", name="given/x.pdf"), "given/x.pdf"),
        (Source(url="https://h.example/a/b.pdf?x=/c#/d", name="../"), "b.pdf"),
        (Source(url="https://h.example/a/b.pdf?x=/c#/d"), "b.pdf"),
        (Source(url="https://h.example/a/%D0%BE%D1%82%D1%87%D1%91%D1%82.pdf"), "отчёт.pdf"),
        (Source(url="https://h.example/a/Stra%DFe.pdf"), "Straße.pdf"),
        (Source(url="https://h.example/a/%2e%2e%2fetc%2Fpasswd"), "passwd"),
        (Source(url="https://h.example/a/b/"), "b"),
        (Source(url="https://h.example/", file_id=70000), "70000"),
        (Source(url="https://h.example/%20%2e", file_id=70000), "70000"),
        (Source(url="https://h.example"), "file-1"),
        (Source(url="http://[::1"), "file-1"),
        (Source(url="https://h.example/a\ud800b"), "a_b"),
    ],
)
def test_where_a_name_comes_from(source: Source, name: str) -> None:
    """The name given, else the URL's last segment, else the id, else the place."""
    assert _planned([source]) == [name]


def test_equal_names_are_numbered_in_the_order_asked_for() -> None:
    """The first keeps its name; the number stands before the extension."""
    assert _planned(_named("report.pdf", "REPORT.pdf", "report.pdf", "report (2).pdf")) == [
        "report.pdf",
        "REPORT (2).pdf",
        "report (3).pdf",
        "report (2) (2).pdf",
    ]
    assert _planned(_named("x.tar.gz", "x.tar.gz", ".env", ".env")) == [
        "x.tar.gz",
        "x (2).tar.gz",
        ".env",
        ".env (2)",
    ]
    assert _planned(_named("STRASSE", "straße", "É", "e\u0301")) == [
        "STRASSE",
        "straße (2)",
        "É",
        "é (2)",
    ]


def test_numbered_names_stay_short_enough() -> None:
    """A number takes its room from the name, not from the extension."""
    first, second = _planned(_named("é" * 200 + ".pdf", "é" * 200 + ".pdf"))
    assert first == "é" * 125 + ".pdf"
    assert second == "é" * 123 + " (2).pdf"


def test_a_file_never_has_a_folders_name() -> None:
    """What cannot be unpacked side by side is numbered, the folder for all its files."""
    assert _planned(_named("a", "a/b", "A/c")) == ["a", "a (2)/b", "A (2)/c"]
    assert _planned(_named("a/b", "a", "a/b/c")) == ["a/b", "a (2)", "a/b (2)/c"]


def test_reserved_names() -> None:
    """The manifest's name is kept free, in any case, also as a folder."""
    assert _planned(_named("manifest.json", "Manifest.JSON/a"), "manifest.json") == [
        "manifest (2).json",
        "Manifest (3).JSON/a",
    ]
    assert _planned(_named("manifest.json")) == ["manifest.json"]


def test_disposition_counts_where_no_name_was_given() -> None:
    """The source's own name, its last segment alone, is fitted among the others."""
    sources = [
        Source(url="https://h.example/download"),
        Source(url="https://h.example/download"),
        Source(url="https://h.example/x", name="mine.pdf"),
        Source(url="https://h.example/y"),
    ]
    names = Names(sources)
    assert names.planned(1) == "download (2)"
    assert names.settle(1, "report.pdf") == "report.pdf"
    assert names.settle(0, "/tmp/../report.pdf") == "report (2).pdf"
    assert names.settle(2, "report.pdf") == "mine.pdf"
    assert names.settle(3, "Mine.pdf") == "Mine (2).pdf"


def test_disposition_that_says_nothing() -> None:
    """Without a usable name the planned one stays."""
    for disposition in (None, "", "..", "\u200b"):
        assert Names(_named("", "")).settle(1, disposition) == "file-2"


def test_disposition_equal_to_the_planned_name() -> None:
    """A file does not get out of its own way."""
    sources = [Source(url="https://h.example/a.pdf"), Source(url="https://h.example/a.pdf")]
    names = Names(sources)
    assert names.settle(1, "A.pdf") == "A (2).pdf"
    assert names.settle(0, "A.pdf") == "A.pdf"


def test_settling_is_for_good() -> None:
    """A second call gives the same name, whatever the source says then."""
    names = Names([Source(url="https://h.example/x")])
    assert names.settle(0, "a.pdf") == "a.pdf"
    assert names.settle(0, "b.pdf") == "a.pdf"
    assert names.settle(0, None) == "a.pdf"


def test_names_restored_after_a_restart() -> None:
    """Settled names are kept and taken; a plan that meets one gives way."""
    sources = [Source(url="https://h.example/x"), Source(url="https://h.example/y")]
    names = Names(sources)
    names.restore(0, "report.pdf")
    assert names.settle(0, "else.pdf") == "report.pdf"
    assert names.settle(1, "report.pdf") == "report (2).pdf"
    names = Names(sources)
    names.restore(0, "Y/z")  # as other rules may once have had it
    assert names.settle(1, None) == "y (2)"


_SHORT = st.lists(st.sampled_from(["a", "A", "b", "a (2)", "é", "e\u0301", "..", ""]), max_size=3)


@given(st.lists(_SHORT.map("/".join), max_size=12), st.data())
def test_names_can_always_be_unpacked_together(raw: list[str], data: st.DataObject) -> None:
    """Whatever is asked for and in whatever order it settles, no name meets another."""
    names = Names(_named(*raw), reserved=("a",))
    order = data.draw(st.permutations(range(len(raw))))
    settled = [names.settle(index, data.draw(st.sampled_from(["a", "B", None]))) for index in order]

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    files = [key(name) for name in settled]
    folders = {
        "/".join(name.split("/")[:depth])
        for name in files
        for depth in range(1, name.count("/") + 1)
    }
    assert len({*files, "a"}) == len(files) + 1
    assert not {*files, "a"} & folders
    for name in settled:
        _assert_safe(name)


def test_many_equal_names_take_linear_time() -> None:
    """A thousand files of one name are numbered without counting from 2 each time."""
    sources = _named(*["same.txt"] * 20_000)
    assert _planned(sources)[-1] == "same (20000).txt"
