"""A job's progress: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TextIO
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

#: Seconds between two lines that say how far everything is.
LINE_SECONDS = 5.0
#: Seconds over which the speed is measured.
_SPEED_SECONDS = 3.0
#: Rows of the terminal that are left to other things.
_SPARE_ROWS = 4
_PLAIN_WIDTH = 110
#: Into how many a bar is divided.
_STEPS = 10_000

Resource = Mapping[str, Any]


class Display(Protocol):
    """Shows one job, then the download of its archive; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def job(self, job: Resource) -> None:
        """Show the job as it stands, given its resource or what is known of it."""
        ...

    def archive(self, done: int, size: int) -> None:
        """Show how many bytes of the archive are here."""
        ...


def make_console(stream: TextIO) -> Console:
    """A console on standard output or standard error, whatever that is."""
    if hasattr(stream, "reconfigure"):
        # Names come in any script, terminals may not know it.
        stream.reconfigure(errors="backslashreplace")
    plain = not stream.isatty()
    return Console(file=stream, highlight=False, width=_PLAIN_WIDTH if plain else None)


def make_display(console: Console) -> Display:
    """Bars where the console is a terminal that can move its cursor, else lines."""
    if console.file.isatty() and not console.is_dumb_terminal:
        return Bars(console)
    return Lines(console)


class Bars:
    """A bar for each file that fits on the terminal, and one for the whole."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=_column(3)),
            BarColumn(bar_width=None, table_column=Column(ratio=4)),
            TextColumn("{task.fields[note]}", markup=False, table_column=_column(4)),
            console=console,
            transient=True,
            expand=True,
            refresh_per_second=8,
        )
        self._console = console
        self._speed = Speed()
        self._whole: TaskID | None = None
        self._rows: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def job(self, job: Resource) -> None:
        speed = self._speed.at(job["bytesFetched"])
        self._set_whole("all files", job["progress"] / 100, f"{summary(job)}{speed}")
        if "files" in job:
            rows = shown_files(job["files"], max(1, self._console.height - _SPARE_ROWS))
            for index in self._rows.keys() - {index for index, _ in rows}:
                self._progress.remove_task(self._rows.pop(index))
            for index, file in rows:
                self._set_file(index, file)

    def archive(self, done: int, size: int) -> None:
        while self._rows:
            self._progress.remove_task(self._rows.popitem()[1])
        self._set_whole("archive", done / size, f"{amount(done)} of {amount(size)}")

    def _set_whole(self, name: str, share: float, note: str) -> None:
        self._whole = self._set(self._whole, name, share, note)

    def _set_file(self, index: int, file: Resource) -> None:
        row = self._rows.get(index)
        self._rows[index] = self._set(row, file_name(file), file_share(file), file_note(file))

    def _set(self, row: TaskID | None, name: str, share: float, note: str) -> TaskID:
        done = int(share * _STEPS)
        if row is None:
            return self._progress.add_task(name, total=_STEPS, completed=done, note=note)
        self._progress.update(row, description=name, completed=done, note=note)
        return row


def _column(ratio: int) -> Column:
    return Column(ratio=ratio, no_wrap=True, overflow="ellipsis")


class Lines:
    """A line for each file that has ended, and now and then one for the whole."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ended: set[int] = set()
        self._next = time.monotonic() + LINE_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def job(self, job: Resource) -> None:
        for index, file in enumerate(job.get("files", ())):
            if file["status"] in ("completed", "failed") and index not in self._ended:
                self._ended.add(index)
                place = f"[{len(self._ended)}/{job['totalFiles']}]"
                self._say(f"{place} {file_name(file)}: {file_note(file)}")
        self._now_and_then(f"{job['progress']} %, {summary(job)}")

    def archive(self, done: int, size: int) -> None:
        self._now_and_then(f"archive: {amount(done)} of {amount(size)}")

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            self._say(text)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


class Speed:
    """Bytes a second over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, done: int) -> str:
        """Say how fast it goes, given how many bytes there are now; empty when not known."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > _SPEED_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        return f", {amount((done - before) / (now - since))}/s" if now - since >= 0.5 else ""


def shown_files(files: Sequence[Resource], rows: int) -> list[tuple[int, Resource]]:
    """The files that get a row, with their places: all if they fit, else those under way."""
    numbered = list(enumerate(files))
    if len(numbered) <= rows:
        return numbered
    return [(index, file) for index, file in numbered if file["status"] == "fetching"][:rows]


def file_share(file: Resource) -> float:
    """How much of a file is here, from 0 to 1; 0 as long as its size is not known."""
    match file["status"]:
        case "completed" | "failed":
            return 1.0
        case "fetching" if "size" in file:
            return float(min(1.0, file.get("bytesFetched", 0) / max(1, file["size"])))
        case _:
            return 0.0


def file_note(file: Resource) -> str:
    """What a file's row says beside its bar."""
    match file["status"]:
        case "pending":
            return "waiting"
        case "fetching":
            size = f" of {amount(file['size'])}" if "size" in file else ""
            tries = f", try {file['attempts']}" if file["attempts"] > 1 else ""
            return f"{amount(file.get('bytesFetched', 0))}{size}{tries}"
        case "completed":
            return f"{amount(file['size'])}, done"
        case _:
            return printable(f"failed: {file.get('error', 'no reason was given')}")


def file_name(file: Resource) -> str:
    """What to call a file: its name in the archive, else the end of its URL."""
    url = file["originalUrl"]
    name = file.get("name") or unquote(urlsplit(url).path).rpartition("/")[2] or url
    return printable(name)


def summary(job: Resource) -> str:
    """One job in a few words."""
    if job["status"] == "queued":
        place = f", number {job['queuePosition']} in line" if "queuePosition" in job else ""
        return f"waiting for a worker{place}"
    failed = f", {job['filesFailed']} failed" if job["filesFailed"] else ""
    counts = f"{job['filesCompleted']} of {job['totalFiles']} files{failed}"
    return f"{counts}, {amount(job['bytesFetched'])}"


def amount(size: float) -> str:
    """A number of bytes for people: ``3.1 MiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def printable(text: str) -> str:
    """Text from elsewhere, without what a terminal would take for a command."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def error_console() -> Console:
    """Where progress goes, so that standard output is left to results."""
    return make_console(sys.stderr)
