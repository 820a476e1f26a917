"""Fetch files from URLs as one verified archive.

Makes a job on a server, or on one started for it, shows how it goes,
downloads the archive and checks it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from yarl import URL

from downloadd.cli.client import ApiClient
from downloadd.cli.download import Expected, pour, save, strangers_part
from downloadd.cli.embedded import embedded_server, run_to_end
from downloadd.cli.follow import run_job
from downloadd.cli.progress import (
    Display,
    amount,
    error_console,
    file_name,
    make_display,
    printable,
)
from downloadd.errors import CommandError, ConfigError, ServerRefused
from downloadd.model import JobStatus, OnError
from downloadd.naming import archive_file_name

#: Seconds between two looks at the files of a job: nobody else minds on our
#: own server; others limit how often they are asked.
EMBEDDED_LOOK_SECONDS = 0.25
REMOTE_LOOK_SECONDS = 1.0

_STDOUT = "-"
_BLOCKED = "address_blocked"
#: Statuses by which a server says that the request itself is wrong.
_WRONG_REQUEST = frozenset({400, 413, 415, 422})


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``get`` to the command line."""
    parser = subparsers.add_parser(
        "get",
        help="fetch files as one verified archive",
        description=__doc__,
        epilog="The server that is started for the job works in TMPDIR, where the archive has to "
        "fit. Exit status: 0 the archive is there, 1 it is not, 2 wrong use, 130 interrupted.",
    )
    parser.add_argument("urls", nargs="+", metavar="URL", help="what goes into the archive")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where the archive goes; - is standard output (default: the name that the job has)",
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite FILE and FILE.part")
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--server", metavar="URL", help="use this server, rather than start one")
    server.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="HOST",
        help="also fetch from HOST, HOST:PORT or a network, although it is private or the port "
        "unusual; may be repeated",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="with --server: send the API key or token in FILE",
    )
    parser.add_argument(
        "--on-error",
        choices=[str(choice) for choice in OnError],
        default=str(OnError.FAIL),
        help="what a file that cannot be had does: fail the job (the default), or be left out",
    )
    parser.add_argument(
        "--no-compress",
        action="store_true",
        help="store files as they are, even where they would shrink",
    )
    parser.add_argument(
        "--manifest", action="store_true", help="add manifest.json: what came from where"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Get the archive; return the exit status. ``ConfigError`` for wrong use, ``CommandError``."""
    return run_to_end(_get(arguments))


async def _get(arguments: argparse.Namespace) -> int:
    _check_target(arguments)
    console = error_console()
    display = make_display(console)
    async with _server(arguments) as client:
        with display, _explained(arguments):
            every = REMOTE_LOOK_SECONDS if arguments.server else EMBEDDED_LOOK_SECONDS
            job = await run_job(client, _request(arguments), display, every=every)
        if job["status"] != JobStatus.COMPLETED:
            raise CommandError(_failure(job, arguments))
        with display:
            where = await _download(client, job, arguments, display)
    for line in _left_out(job):
        console.print(line, markup=False, soft_wrap=True)
    _print_result(job, where)
    return 0


@asynccontextmanager
async def _server(arguments: argparse.Namespace) -> AsyncIterator[ApiClient]:
    """The server named, else one of our own."""
    if arguments.server:
        url, token = _server_url(arguments.server), _token(arguments.token_file)
        async with ApiClient.open(url, proxies=True, token=token) as client:
            yield client
        return
    if arguments.token_file is not None:
        raise ConfigError("--token-file goes with --server: a server of our own asks for none")
    async with (
        embedded_server(allow=arguments.allow) as server,
        ApiClient.open(URL(server.base_url)) as client,
    ):
        yield client


def _token(path: Path | None) -> str | None:
    """A credential: not an argument, for those are seen by everybody on the machine."""
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--token-file {path} cannot be read: {exc}") from exc
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"--token-file {path} holds no API key and no token")
    return token


def _server_url(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError as exc:
        raise ConfigError(f"--server is {text!r}: {exc}") from exc
    if url.scheme not in ("http", "https") or not url.host or url.query_string:
        raise ConfigError(f"--server is {text!r}: it must be as http://127.0.0.1:3000")
    return url


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "source_urls": arguments.urls,
        "options": {
            "onError": arguments.on_error,
            "compress": not arguments.no_compress,
            "manifest": arguments.manifest,
        },
    }


# --- the archive ---------------------------------------------------------------


def _check_target(arguments: argparse.Namespace) -> None:
    """Find out before the work what would make it worthless."""
    if arguments.output == _STDOUT:
        if sys.stdout.isatty():
            raise ConfigError("The archive is not text: send standard output somewhere else.")
        return
    if arguments.output is not None:
        target = Path(arguments.output)
        if target.is_dir() or not target.name:
            raise ConfigError(f"{target} is a folder: name a file.")
        if not target.parent.is_dir():
            raise ConfigError(f"There is no folder {target.parent}.")
        _refuse_to_overwrite(target, force=arguments.force)


def _refuse_to_overwrite(target: Path, *, force: bool) -> None:
    if force:
        return
    if target.exists():
        raise ConfigError(f"{target} exists: name another file with -o, or overwrite with --force.")
    if (part := strangers_part(target)) is not None:
        raise ConfigError(
            f"{part}, where the archive would be put together, is not from downloadd: name "
            "another file with -o, or overwrite with --force.",
        )


async def _download(
    client: ApiClient,
    job: Mapping[str, Any],
    arguments: argparse.Namespace,
    display: Display,
) -> Path | None:
    """Bring the archive to where it was asked for; None is standard output."""
    expected = Expected.of(job)

    def report(done: int) -> None:
        display.archive(done, expected.size)

    if arguments.output == _STDOUT:
        await pour(client, expected, sys.stdout.fileno(), report)
        return None
    target = Path(arguments.output or archive_file_name(job["fileName"]))
    _refuse_to_overwrite(target, force=arguments.force)
    # The job of a server of our own is gone with it, and nothing could go on with a part.
    keep = bool(arguments.server)
    await save(client, expected, target, report, force=arguments.force, keep=keep)
    return target


def _print_result(job: Mapping[str, Any], where: Path | None) -> None:
    out = sys.stderr if where is None else sys.stdout
    files = job["filesCompleted"]
    print(f"{where or 'standard output'}", file=out)
    print(
        f"  {amount(job['totalSize'])} ({job['totalSize']} bytes), "
        f"{files} {'file' if files == 1 else 'files'}",
        file=out,
    )
    print(f"  sha256 {job['sha256']}, verified", file=out)


# --- what went wrong -----------------------------------------------------------


@contextmanager
def _explained(arguments: argparse.Namespace) -> Iterator[None]:
    """Turn a server's word that the request is wrong into ours that the command is."""
    try:
        yield
    except ServerRefused as exc:
        if exc.status not in _WRONG_REQUEST:
            raise
        raise ConfigError("\n".join(_refusal(exc, arguments))) from exc


def _refusal(exc: ServerRefused, arguments: argparse.Namespace) -> Iterator[str]:
    refused = []
    told = False
    for field, messages in exc.details.items():
        section, _, place = field.partition(".")
        if section == "source_urls" and place.isdecimal() and int(place) < len(arguments.urls):
            refused.append(arguments.urls[int(place)])
            yield f"{refused[-1]}: {' '.join(messages)}"
            told = True
    if not told:
        yield exc.message
    yield from _hint(refused, arguments)


def _failure(job: Mapping[str, Any], arguments: argparse.Namespace) -> str:
    """Say why there is no archive, and of which files."""
    lines = [printable(job.get("error") or f"The job was {job['status']}.")]
    failed = [file for file in job.get("files", ()) if file["status"] == "failed"]
    lines += [_file_line(file) for file in failed]
    blocked = [file["originalUrl"] for file in failed if file.get("errorCode") == _BLOCKED]
    return "\n".join([*lines, *_hint(blocked, arguments)])


def _left_out(job: Mapping[str, Any]) -> Iterator[str]:
    """The files that are missing from a partial archive."""
    for file in job["files"] if job.get("partial") else ():
        if file["status"] != "completed":
            yield f"left out: {_file_line(file)}"


def _file_line(file: Mapping[str, Any]) -> str:
    error = printable(file.get("error", "no reason was given"))
    return f"{file_name(file)} ({printable(file['originalUrl'])}): {error}"


def _hint(blocked: list[str], arguments: argparse.Namespace) -> Iterator[str]:
    """What opens addresses that the guard has closed."""
    hosts = dict.fromkeys(host for url in blocked if (host := _host_port(url)) is not None)
    if not hosts:
        return
    if arguments.server:
        yield "Private addresses and unusual ports are opened by the server's network.allow."
    else:
        flags = " ".join(f"--allow {host}" for host in hosts)
        yield f"Private addresses and unusual ports are opened by {flags}."


def _host_port(url: str) -> str | None:
    try:
        parsed = URL(url)
    except ValueError:
        return None
    if parsed.scheme not in ("http", "https") or parsed.host is None:
        return None
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return f"{host}:{parsed.port}"
