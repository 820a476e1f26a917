"""What a job's progress looks like, on a terminal and elsewhere."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from downloadd.cli.progress import (
    Bars,
    Lines,
    amount,
    file_name,
    file_note,
    file_share,
    make_display,
    printable,
    shown_files,
    summary,
)


def file(status: str = "fetching", **fields: Any) -> dict[str, Any]:
    known = {"originalUrl": "http://o.example/a.pdf", "status": status, "attempts": 1}
    return {**known, **fields}


def job(*files: dict[str, Any], **fields: Any) -> dict[str, Any]:
    known = {
        "status": "processing",
        "progress": 50,
        "totalFiles": len(files),
        "filesCompleted": 1,
        "filesFailed": 0,
        "bytesFetched": 3 << 20,
        "files": list(files),
    }
    return {**known, **fields}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 KiB"),
        (3 << 20, "3.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (7 << 40, "7.0 TiB"),
    ],
)
def test_amounts(size: int, text: str) -> None:
    """Sizes are said in the unit that fits."""
    assert amount(size) == text


def test_every_file_has_a_row_while_they_fit() -> None:
    """Few files are all shown, in their order, whatever they do."""
    files = [file("completed"), file("pending"), file("failed")]
    assert [index for index, _ in shown_files(files, 3)] == [0, 1, 2]


def test_of_many_files_those_under_way_have_rows() -> None:
    """Where not all fit, those under way are shown, and no more than fit."""
    files = [file("fetching" if index % 3 == 0 else "pending") for index in range(1000)]
    assert [index for index, _ in shown_files(files, 4)] == [0, 3, 6, 9]


@pytest.mark.parametrize(
    ("entry", "share", "note"),
    [
        (file("pending"), 0.0, "waiting"),
        (file(bytesFetched=512), 0.0, "512 bytes"),
        (file(bytesFetched=512, size=1024), 0.5, "512 bytes of 1.0 KiB"),
        (file(bytesFetched=9, size=0, attempts=3), 1.0, "9 bytes of 0 bytes, try 3"),
        (file("completed", size=0), 1.0, "0 bytes, done"),
        (file("failed", error="The source answered 404."), 1.0, "failed: The source answered 404."),
    ],
)
def test_a_files_row(entry: dict[str, Any], share: float, note: str) -> None:
    """A row says how much of its file is here, and what became of it."""
    assert file_share(entry) == share
    assert file_note(entry) == note


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (file(name="x/y.pdf"), "x/y.pdf"),
        (file(originalUrl="http://o.example/r%C3%A9sum%C3%A9.pdf?k=***"), "résumé.pdf"),
        (file(originalUrl="http://o.example/"), "http://o.example/"),
        (file(originalUrl="http://o.example/%1b[2Ja"), "\N{REPLACEMENT CHARACTER}[2Ja"),
    ],
)
def test_a_files_name(entry: dict[str, Any], name: str) -> None:
    """A file is called as in the archive, else by its URL, and never commands the terminal."""
    assert file_name(entry) == name


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"status": "queued", "queuePosition": 7}, "waiting for a worker, number 7 in line"),
        ({"status": "queued"}, "waiting for a worker"),
        ({}, "1 of 2 files, 3.0 MiB"),
        ({"filesFailed": 1}, "1 of 2 files, 1 failed, 3.0 MiB"),
    ],
)
def test_the_job_in_a_few_words(fields: dict[str, Any], text: str) -> None:
    """The line of the whole says whether the job waits, else what is done and what failed."""
    assert summary(job(file(), file(), **fields)) == text


def test_control_characters_are_not_printed() -> None:
    """What a terminal would obey is replaced; letters of any script stay."""
    assert printable("概要 \x1b]0;x\x07\r\n") == "概要 \ufffd]0;x\ufffd\ufffd\ufffd"


def test_lines_tell_of_each_file_once() -> None:
    """A file that has ended has one line, however often the job is shown; no escape codes."""
    out = io.StringIO()
    with Lines(Console(file=out, width=80)) as lines:
        lines.job(job(file("completed", size=1024), file()))
        lines.job(job(file("completed", size=1024), file("failed", error="It [is] gone.")))
        lines.job(job(file("completed", size=1024), file("failed", error="It [is] gone.")))
        lines.archive(5, 10)
    assert out.getvalue().splitlines() == [
        "[1/2] a.pdf: 1.0 KiB, done",
        "[2/2] a.pdf: failed: It [is] gone.",
    ]


def test_bars_follow_the_job_and_vanish() -> None:
    """Bars show the whole and the files under way, then the archive, and leave nothing."""
    out = Terminal()
    console = Console(file=out, width=90, height=8, force_terminal=True, _environ={"TERM": "xterm"})
    with Bars(console) as bars:
        bars.job(job(*(file("pending") for _ in range(9))))
        many = [file("completed", size=5) for _ in range(7)]
        bars.job(job(*many, file(name="[b].bin", bytesFetched=5, size=10), file("pending")))
        shown = out.getvalue()
        bars.archive(1 << 20, 2 << 20)
    assert "1 of 9 files, 3.0 MiB" in shown
    assert "[b].bin" in shown
    assert "a.pdf" not in shown
    assert "1.0 MiB of 2.0 MiB" in out.getvalue()
    # The last thing it does is to wipe its lines and to give the cursor back.
    assert out.getvalue().rstrip().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("stream", "term", "kind"),
    [(Terminal(), "xterm", Bars), (Terminal(), "dumb", Lines), (io.StringIO(), "xterm", Lines)],
)
def test_bars_are_for_terminals(
    stream: io.StringIO, term: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bars are for terminals that can move their cursor, even where colour is forced."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(make_display(Console(file=stream)), kind)
