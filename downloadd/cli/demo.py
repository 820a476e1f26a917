"""Show the whole way of a job in a few seconds, and prove what it is for.

Starts an origin with difficult files and a server, makes one job of them,
downloads the archive through its signed link and checks every byte of it with
other means than those that made it. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from yarl import URL

from downloadd.cli.client import ApiClient
from downloadd.cli.demo_origin import MIB, Origin, Specimen, running_origin
from downloadd.cli.download import Expected, save
from downloadd.cli.embedded import embedded_server, run_to_end
from downloadd.cli.follow import run_job
from downloadd.cli.progress import amount, make_console, make_display
from downloadd.errors import CommandError, ConfigError
from downloadd.model import JobStatus

_LOOK_SECONDS = 0.25


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo`` to the command line."""
    parser = subparsers.add_parser(
        "demo", help="see a job work, from URLs to a verified archive", description=__doc__
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="keep the archive here")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration; 0 when all of it is proven, else ``CommandError`` says why not."""
    output: Path | None = arguments.output
    if output is not None and (output.exists() or not output.absolute().parent.is_dir()):
        raise ConfigError(f"{output} exists, or its folder does not: name a new file.")
    return run_to_end(_demo(make_console(sys.stdout), output))


async def _demo(console: Console, output: Path | None) -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="downloadd-demo-") as folder:
        target = output or Path(folder) / "archive.zip"
        async with running_origin() as origin:
            sums = await asyncio.to_thread(_sums, origin.specimens)
            _say(console, f"An origin on http://{origin.authority} has {_inventory(origin)}.")
            job = await _make_archive(console, origin, sums, target)
            _say(console, "Reading it with Python's zipfile and comparing with the origin:")
            rows = await asyncio.to_thread(_examine, target, origin.specimens, job["files"], sums)
    _show(console, rows)
    if not all(row.verified for row in rows):
        raise CommandError("The archive does not hold what the origin has.")
    for line in _proofs(origin, rows):
        _say(console, f"  * {line}")
    kept = f"The archive is {output}." if output else "Nothing is left of it; --output keeps it."
    _say(console, f"Done in {time.monotonic() - began:.1f} s. {kept}")
    return 0


async def _make_archive(
    console: Console,
    origin: Origin,
    sums: Mapping[str, str],
    target: Path,
) -> dict[str, Any]:
    """One job from its request to the archive on disk; returns its resource."""
    async with (
        embedded_server(allow=[origin.authority]) as server,
        ApiClient.open(URL(server.base_url)) as client,
    ):
        body = _request(origin, sums)
        given = sum("sha256" in file for file in body["files"])
        _say(console, f"A server on {server.base_url} keeps its state in an embedded Valkey.")
        _say(
            console,
            f"POST /v1/download/initiate: {len(body['files'])} files, {given} with their SHA-256.",
        )
        with make_display(console) as display:
            job = await run_job(client, body, display, every=_LOOK_SECONDS)
        if job["status"] != JobStatus.COMPLETED:
            raise CommandError(f"The job did not complete: {job.get('error', job['status'])}")
        _say(
            console,
            f"Completed in {job['processingTimeMs'] / 1000:.1f} s: "
            f"{amount(job['totalSize'])}, sha256 {job['sha256']}",
        )
        _say(console, f"Downloading it through its signed link:\n  {job['downloadUrl']}")
        expected = Expected.of(job)
        with make_display(console) as display:

            def report(done: int) -> None:
                display.archive(done, expected.size)

            await save(client, expected, target, report, keep=False)
    return job


def _request(origin: Origin, sums: Mapping[str, str]) -> dict[str, Any]:
    files = []
    for specimen in origin.specimens:
        file = {"url": origin.url(specimen)}
        if specimen.announced:
            file["sha256"] = sums[specimen.path]
        files.append(file)
    return {"files": files, "options": {"manifest": False, "fileName": "demo.zip"}}


def _sums(specimens: Sequence[Specimen]) -> dict[str, str]:
    return {specimen.path: specimen.sha256() for specimen in specimens}


def _inventory(origin: Origin) -> str:
    total = sum(specimen.size for specimen in origin.specimens)
    return f"{len(origin.specimens)} files, {amount(total)}, most of them hard to get"


# --- the examination -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One file: what the archive has of it, held against the origin."""

    specimen: Specimen
    name: str
    size: int
    packed: int
    sha256: str
    tries: int
    verified: bool


def _examine(
    path: Path,
    specimens: Sequence[Specimen],
    files: Sequence[Mapping[str, Any]],
    sums: Mapping[str, str],
) -> list[_Row]:
    """Read the archive as a stranger would. ``CommandError`` where it is no proper ZIP."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:
                raise CommandError(f"{broken} is broken in the archive: its CRC-32 is wrong.")
            if sorted(archive.namelist()) != sorted(file["name"] for file in files):
                raise CommandError("The archive lists other files than the job.")
            return [
                _row(archive, specimen, file, sums[specimen.path])
                for specimen, file in zip(specimens, files, strict=True)
            ]
    except zipfile.BadZipFile as exc:
        raise CommandError(f"The archive is no proper ZIP: {exc}.") from exc


def _row(
    archive: zipfile.ZipFile,
    specimen: Specimen,
    file: Mapping[str, Any],
    wanted: str,
) -> _Row:
    entry = archive.getinfo(file["name"])
    digest = _sha256(archive, entry)
    return _Row(
        specimen=specimen,
        name=entry.filename,
        size=entry.file_size,
        packed=entry.compress_size,
        sha256=digest,
        tries=file["attempts"],
        verified=digest == wanted == file["sha256"] and entry.file_size == specimen.size,
    )


def _sha256(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str:
    digest = hashlib.sha256()
    with archive.open(entry) as member:
        while block := member.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def _show(console: Console, rows: Sequence[_Row]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("packed", justify="right", no_wrap=True)
    table.add_column("sha256", no_wrap=True)
    table.add_column("tries", justify="right")
    table.add_column("verified", no_wrap=True)
    table.add_column("at the origin", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            amount(row.size),
            amount(row.packed),
            row.sha256[:12],
            str(row.tries),
            "✓" if row.verified else "✗ DIFFERS",
            row.specimen.manner,
        )
    console.print(table)


def _proofs(origin: Origin, rows: Sequence[_Row]) -> Iterator[str]:
    yield (
        f"All {len(rows)} files are, byte for byte, what the origin has; "
        "the archive's own SHA-256 is the job's."
    )
    for specimen in origin.specimens:
        if specimen.drops:
            places = " and ".join(f"{at / MIB:.2f} MiB" for at in origin.resumed_at[specimen.path])
            again = origin.sent[specimen.path] - specimen.size
            yield (
                f"{specimen.path} lost its connection {_times(len(specimen.drops))} and went on "
                f"at {places} by Range: {amount(max(0, again))} were sent again."
            )
    for row in rows:
        if row.specimen.refusals:
            times = _times(row.specimen.refusals)
            yield f"{row.name} was refused {times} with 503 and asked for again."
    shrunk = max(rows, key=lambda row: row.size - row.packed)
    yield (
        f"{shrunk.name} shrank to {shrunk.packed / shrunk.size:.0%} of its size; "
        "what does not shrink was stored as it is."
    )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
