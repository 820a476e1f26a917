"""The installed program: ``downloadd get``, with a server of its own and with another's."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from downloadd.access import api_keys
from tests.dropping_proxy import DroppingProxy
from tests.e2e.test_serve import serve, valkeys
from tests.origin import Origin, content

MIB = 1 << 20
#: Seconds for what takes two or three when the machine is not busy.
PATIENCE = 60


@dataclass
class Ended:
    status: int
    out: bytes
    err: str


class Get:
    """Runs of ``downloadd get`` in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "here"
        self.tmp = folder / "tmp"
        self.folder.mkdir()
        self.tmp.mkdir()

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "downloadd", "get", *arguments),
            cwd=self.folder,
            env={**os.environ, "TMPDIR": str(self.tmp)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str) -> Ended:
        return await self.end(await self.start(*arguments))

    async def end(self, process: asyncio.subprocess.Process) -> Ended:
        try:
            out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Ended(process.returncode, out, err.decode())

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def get(tmp_path: Path) -> Get:
    return Get(tmp_path)


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as origin:
        yield origin


@pytest.fixture
async def proxy() -> AsyncIterator[DroppingProxy]:
    async with DroppingProxy() as proxy:
        yield proxy


@contextmanager
def proxied(data_dir: Path, proxy: DroppingProxy) -> Iterator[str]:
    """A server that takes the proxy for its own address; gives that."""
    with serve(
        data_dir,
        DOWNLOADD_NETWORK_ALLOW="127.0.0.1",
        DOWNLOADD_SERVER_PUBLIC_URL=proxy.url,
    ) as (_, url):
        proxy.port_behind = int(url.rpartition(":")[2])
        yield proxy.url


def allow(origin: Origin) -> tuple[str, str]:
    return "--allow", f"{origin.host}:{origin.port}"


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


def members(path: Path) -> list[bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return [archive.read(name) for name in archive.namelist()]


# --- with a server of its own ---------------------------------------------------


async def test_files_become_one_verified_archive(get: Get, origin: Origin) -> None:
    """Files of every sort arrive whole; path, size, SHA-256 are printed; nothing else is left."""
    urls = [
        origin.url(1, 300_000),
        origin.url(2, 200_000, kind="text"),
        origin.url(3, 100_000, chunked=1),
        origin.url(4, 3 * MIB, drop_after=MIB, times=1),
        origin.url(5, 0),
        origin.url(6, 5000, redirect=2),
    ]
    ended = await get(*urls, *allow(origin), "-o", "all.zip")
    assert ended.status == 0, ended.err
    assert members(get.folder / "all.zip") == [
        content(1, 300_000),
        content(2, 200_000, "text"),
        content(3, 100_000),
        content(4, 3 * MIB),
        b"",
        content(6, 5000),
    ]
    data = (get.folder / "all.zip").read_bytes()
    path, size, digest = ended.out.decode().splitlines()
    assert path == "all.zip"
    assert f"({len(data)} bytes), 6 files" in size
    assert digest == f"  sha256 {hashlib.sha256(data).hexdigest()}, verified"
    assert "[6/6]" in ended.err
    assert "\x1b" not in ended.err
    assert get.names() == ["all.zip"]
    assert list(get.tmp.iterdir()) == []


async def test_the_archive_has_the_jobs_name(get: Get, origin: Origin) -> None:
    """Without -o the archive lies in the current folder under a name that ends with .zip."""
    ended = await get(origin.url(1, 1000), *allow(origin))
    assert ended.status == 0, ended.err
    (name,) = get.names()
    assert name.endswith(".zip")
    assert ended.out.decode().splitlines()[0] == name


async def test_standard_output(get: Get, origin: Origin) -> None:
    """With -o - standard output is the archive and nothing else."""
    ended = await get(origin.url(1, 300_000), *allow(origin), "-o", "-")
    assert ended.status == 0, ended.err
    (get.folder / "out.zip").write_bytes(ended.out)
    assert members(get.folder / "out.zip") == [content(1, 300_000)]
    assert f"sha256 {hashlib.sha256(ended.out).hexdigest()}, verified" in ended.err


async def test_a_failed_job_says_which_file_and_why(get: Get, origin: Origin) -> None:
    """The exit status is 1, standard error has the file and the reason, and no file is left."""
    missing = origin.url(9, 10).replace("/file/9/10", "/gone.pdf")
    ended = await get(origin.url(1, 1000), missing, *allow(origin), "-o", "all.zip")
    assert ended.status == 1
    assert "downloadd: " in ended.err
    assert f"gone.pdf ({missing}): " in ended.err
    assert "404" in ended.err
    assert ended.out == b""
    assert get.names() == []
    assert list(get.tmp.iterdir()) == []


async def test_files_can_be_left_out(get: Get, origin: Origin) -> None:
    """With --on-error skip the rest arrives; standard error and manifest say what is missing."""
    missing = origin.url(9, 10).replace("/file/9/10", "/gone.pdf")
    ended = await get(
        *(missing, origin.url(1, 1000), *allow(origin)), "--on-error", "skip", "-o", "a.zip"
    )
    assert ended.status == 0, ended.err
    file, manifest = members(get.folder / "a.zip")
    assert file == content(1, 1000)
    assert missing.encode() in manifest
    assert f"left out: gone.pdf ({missing}): " in ended.err


async def test_a_private_address_needs_leave(get: Get, origin: Origin) -> None:
    """A private address is wrong use, and the message says how to open it; nothing is dialled."""
    ended = await get(origin.url(1, 1000), "-o", "a.zip")
    assert ended.status == 2
    assert f"--allow 127.0.0.1:{origin.port}" in ended.err
    assert origin.connections == 0


async def test_a_name_of_a_private_address_needs_leave(get: Get, origin: Origin) -> None:
    """So is a name that can only be private."""
    url = origin.url(1, 1000, host="localhost")
    url = url.replace(f":{origin.port}", ":8000")
    ended = await get(url, "-o", "a.zip")
    assert ended.status == 2
    assert "--allow localhost:8000" in ended.err


async def test_an_existing_file_is_kept(get: Get, origin: Origin) -> None:
    """An existing file is refused before any work; --force replaces it."""
    (get.folder / "a.zip").write_text("mine")
    ended = await get(origin.url(1, 1000), *allow(origin), "-o", "a.zip")
    assert ended.status == 2
    assert "a.zip exists" in ended.err
    assert (get.folder / "a.zip").read_text() == "mine"
    assert origin.connections == 0
    ended = await get(origin.url(1, 1000), *allow(origin), "-o", "a.zip", "--force")
    assert ended.status == 0, ended.err
    assert members(get.folder / "a.zip") == [content(1, 1000)]


async def test_a_strangers_part_is_kept(get: Get, origin: Origin) -> None:
    """A file of another in the way of the parts is refused before any work; --force replaces it."""
    (get.folder / "a.zip.part").write_text("mine")
    ended = await get(origin.url(1, 1000), *allow(origin), "-o", "a.zip")
    assert ended.status == 2
    assert "a.zip.part, where" in ended.err
    assert (get.folder / "a.zip.part").read_text() == "mine"
    assert origin.connections == 0
    ended = await get(origin.url(1, 1000), *allow(origin), "-o", "a.zip", "--force")
    assert ended.status == 0, ended.err
    assert get.names() == ["a.zip"]


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)
async def test_an_interrupted_get_leaves_nothing(
    get: Get, origin: Origin, number: int, status: int
) -> None:
    """Interrupted, it ends with the shell's status: no file, no folder, no process is left."""
    process = await get.start(origin.url(1, MIB, rate=1000), *allow(origin), "-o", "a.zip")
    await until(lambda: origin.requests)
    assert valkeys(get.tmp)
    process.send_signal(number)
    ended = await get.end(process)
    assert ended.status == status, ended.err
    assert "Traceback" not in ended.err
    assert get.names() == []
    assert list(get.tmp.iterdir()) == []
    assert valkeys(get.tmp) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--server", "foo"), "--server is 'foo'"),
        (("--allow", "bad host"), '--allow is ["bad host"]'),
        (("-o", "missing/a.zip"), "There is no folder missing"),
        (("-o", "."), "name a file"),
        (("--server", "http://127.0.0.1:1", "--allow", "x"), "not allowed with"),
        (("--token-file", "x"), "goes with --server"),
        (("--server", "http://127.0.0.1:1", "--token-file", "missing"), "cannot be read"),
        (("--server", "http://127.0.0.1:1", "--token-file", "/dev/null"), "holds no API key"),
    ],
)
async def test_wrong_use(get: Get, arguments: tuple[str, ...], message: str) -> None:
    """Wrong use has the exit status 2 and a message that names what is wrong."""
    ended = await get("http://files.example/a", *arguments)
    assert ended.status == 2
    assert message in ended.err


# --- with another's server ------------------------------------------------------


async def test_a_server_does_the_work(get: Get, origin: Origin, tmp_path: Path) -> None:
    """With --server its archive arrives, made as the options say; no server is started."""
    with serve(tmp_path / "data", DOWNLOADD_NETWORK_ALLOW="127.0.0.1") as (_, url):
        ended = await get(
            *(origin.url(1, 1000), origin.url(2, 200_000, kind="text")),
            *("--server", url, "--no-compress", "--manifest", "-o", "a.zip"),
        )
    assert ended.status == 0, ended.err
    with zipfile.ZipFile(get.folder / "a.zip") as archive:
        assert {entry.compress_type for entry in archive.infolist()[:2]} == {zipfile.ZIP_STORED}
        assert archive.namelist()[-1] == "manifest.json"
        assert archive.read(archive.namelist()[1]) == content(2, 200_000, "text")
    assert get.names() == ["a.zip"]


async def test_a_server_that_asks_who_calls(get: Get, origin: Origin, tmp_path: Path) -> None:
    """The key is read from a file; without one the server's own sentence says what is missing."""
    path = tmp_path / "keys.json"
    (tmp_path / "key").write_text(api_keys.add(path, user="ann", role="user", now=0) + "\n")
    with serve(
        tmp_path / "data",
        DOWNLOADD_NETWORK_ALLOW="127.0.0.1",
        DOWNLOADD_AUTH_MODE="api-keys",
        DOWNLOADD_AUTH_API_KEYS_FILE=str(path),
    ) as (_, url):
        refused = await get(origin.url(1, 1000), "--server", url)
        ended = await get(
            *(origin.url(1, 1000), "--server", url, "-o", "a.zip"),
            *("--token-file", str(tmp_path / "key")),
        )
    assert refused.status == 1
    assert "Say who you are" in refused.err
    assert ended.status == 0, ended.err
    assert get.names() == ["a.zip"]


async def test_an_interrupted_get_cancels_the_job(get: Get, origin: Origin, tmp_path: Path) -> None:
    """Interrupted while the job runs, it cancels the job on the server."""
    with serve(tmp_path / "data", DOWNLOADD_NETWORK_ALLOW="127.0.0.1") as (_, url):
        process = await get.start(origin.url(1, MIB, rate=1000), "--server", url)
        await until(lambda: origin.open_connections)
        process.send_signal(signal.SIGINT)
        ended = await get.end(process)
        await until(lambda: not origin.open_connections)
    assert ended.status == 130, ended.err
    assert get.names() == []


async def test_a_download_goes_on_where_it_broke_off(
    get: Get, origin: Origin, proxy: DroppingProxy, tmp_path: Path
) -> None:
    """An archive whose connection is lost twice arrives whole, hardly a byte of it twice."""
    proxy.cuts = [2 * MIB, 3 * MIB]
    with proxied(tmp_path / "data", proxy) as url:
        ended = await get(origin.url(1, 8 * MIB), "--server", url, "-o", "a.zip")
    assert ended.status == 0, ended.err
    assert members(get.folder / "a.zip") == [content(1, 8 * MIB)]
    first, second, third = proxy.requests
    assert b"Range" not in first
    assert b"Range: bytes=" in second
    assert b"If-Range: " in second
    assert b"Range: bytes=" in third
    # What was in sockets when a connection was lost is sent again, and nothing else:
    # from the beginning it would be 10 MiB at the least.
    assert proxy.sent < 9.5 * MIB
    assert get.names() == ["a.zip"]


async def test_a_later_run_goes_on(
    get: Get, origin: Origin, proxy: DroppingProxy, tmp_path: Path
) -> None:
    """What an interrupted download has left is used by the next run of the same command."""
    command = (origin.url(1, 8 * MIB), "--server", proxy.url, "-o", "a.zip")
    with proxied(tmp_path / "data", proxy):
        proxy.stalls = [4 * MIB]
        process = await get.start(*command)
        part = get.folder / "a.zip.part"
        await until(lambda: part.exists() and part.stat().st_size >= 3 * MIB)
        process.send_signal(signal.SIGINT)
        assert (await get.end(process)).status == 130
        kept = part.stat().st_size
        ended = await get(*command)
    assert ended.status == 0, ended.err
    assert members(get.folder / "a.zip") == [content(1, 8 * MIB)]
    assert b"Range: bytes=%d-\r\n" % kept in proxy.requests[-1]
    assert origin.hits["/file/1/8388608"] == 1
    assert get.names() == ["a.zip"]


async def test_another_archives_remains_are_not_used(get: Get, origin: Origin) -> None:
    """A part file of another archive is overwritten, not gone on with."""
    (get.folder / "a.zip.part").write_bytes(b"x" * 500)
    (get.folder / "a.zip.part.sha256").write_text("0" * 64 + "\n")
    ended = await get(origin.url(1, 1000), *allow(origin), "-o", "a.zip")
    assert ended.status == 0, ended.err
    assert members(get.folder / "a.zip") == [content(1, 1000)]
    assert get.names() == ["a.zip"]


async def test_wrong_bytes_never_become_the_archive(
    get: Get, origin: Origin, proxy: DroppingProxy, tmp_path: Path
) -> None:
    """An archive that changed on its way is refused by its SHA-256 and not kept."""
    proxy.corrupt_at = MIB
    with proxied(tmp_path / "data", proxy) as url:
        ended = await get(origin.url(1, 2 * MIB), "--server", url, "-o", "a.zip")
    assert ended.status == 1
    assert "SHA-256" in ended.err
    assert get.names() == []


async def test_no_server_there(get: Get, origin: Origin) -> None:
    """A server that is away, or is none, is a sentence and the exit status 1."""
    ended = await get("http://files.example/a", "--server", "http://127.0.0.1:1")
    assert ended.status == 1
    assert "http://127.0.0.1:1" in ended.err
    assert len(ended.err.splitlines()) == 1
    ended = await get("http://files.example/a", "--server", f"http://127.0.0.1:{origin.port}")
    assert ended.status == 1
    assert "not as a downloadd server would" in ended.err
