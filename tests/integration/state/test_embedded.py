"""The Valkey that downloadd starts for itself: one owner, no orphan, nothing lost."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from downloadd.errors import StateError, StateLocked
from downloadd.state import embedded
from downloadd.state.embedded import embedded_valkey
from downloadd.state.setup import open_state
from tests.integration.state.making import create, make_job
from tests.tools import missing

# Runs in a process of its own, so that it can be killed: starts a server,
# makes a job, says its id, and stays.
PROGRAM = """
import asyncio, sys, uvloop
from pathlib import Path
from downloadd.state.embedded import embedded_valkey
from downloadd.state.setup import open_state
from tests.integration.state.making import create, make_job

async def main():
    async with embedded_valkey(Path(sys.argv[1])) as url, open_state(url) as state:
        job = make_job()
        await create(state, job)
        print(job.id, flush=True)
        await asyncio.sleep(60)

(uvloop if "uvloop" in sys.argv else asyncio).run(main())
"""


@pytest.fixture(autouse=True)
def _server_is_there() -> None:
    try:
        embedded.find_server()
    except StateError:
        missing("a Valkey or Redis server")


@contextmanager
def other_process(data_dir: Path, *args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another downloadd on the directory, and the id of the job it has made."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(data_dir), *args],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "valkey.pid").read_text())


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def make_one(data_dir: Path) -> str:
    """Run the server, make a job, stop; return the job's id."""
    job = make_job()
    async with embedded_valkey(data_dir) as url, open_state(url) as state:
        await create(state, job)
    return job.id


async def find(data_dir: Path, job_id: str) -> None:
    """Run the server and see that the job is there."""
    async with embedded_valkey(data_dir) as url, open_state(url) as state:
        assert (await state.jobs.load(job_id)).queue_position == 1


async def test_a_job_outlives_a_restart(tmp_path: Path) -> None:
    """What was made is there after a clean stop, and the server is gone in between."""
    data_dir = tmp_path / "a b" / "ü"
    async with embedded_valkey(data_dir) as url, open_state(url) as state:
        job = make_job()
        await create(state, job)
        pid = server_pid(data_dir)
        assert alive(pid)
    assert not alive(pid)
    await find(data_dir, job.id)


async def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    """Folders are 0700 and files 0600, whatever the umask is."""
    old = os.umask(0)
    try:
        data_dir = tmp_path / "data"
        async with embedded_valkey(data_dir) as url, open_state(url) as state:
            await create(state)
            for path in (data_dir, *data_dir.rglob("*")):
                mode = stat.S_IMODE(path.lstat().st_mode)
                assert mode & 0o077 == 0, f"{path}: {mode:o}"
    finally:
        os.umask(old)


async def test_a_second_start_is_refused(tmp_path: Path) -> None:
    """Another start on the folder, here or in another process, is told which folder it is."""
    async with embedded_valkey(tmp_path) as url, open_state(url) as state:
        with pytest.raises(StateLocked, match=str(tmp_path)):
            async with embedded_valkey(tmp_path):
                pass
        result = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
            check=False,
        )
        assert "StateLocked" in result.stderr
        await state.check()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_kill_9_leaves_no_orphan(tmp_path: Path, loop: str) -> None:
    """The server ends with its parent, and the next start finds everything."""
    with other_process(tmp_path, loop) as (process, job_id):
        pid = server_pid(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        # At once: the server may still be on its way out.
        await find(tmp_path, job_id)
    wait_until_gone(pid)


async def test_ctrl_c_reaches_the_parent_alone(tmp_path: Path) -> None:
    """The server is in a session of its own: a terminal's signals do not end it under jobs."""
    async with embedded_valkey(tmp_path):
        assert os.getsid(server_pid(tmp_path)) != os.getsid(0)


async def test_a_server_left_over_is_ended(tmp_path: Path) -> None:
    """One that outlived its parent (no death signal there) is shut down, and its data kept."""
    job_id = await make_one(tmp_path)
    lock = os.open(tmp_path / "valkey.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    server = embedded._Server(embedded.find_server(), tmp_path, tmp_path / "valkey.sock")
    with subprocess.Popen(
        [embedded.find_server(), *server._settings()],
        pass_fds=(lock,),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as leftover:
        try:
            os.close(lock)
            while not (tmp_path / "valkey.pid").exists():
                await asyncio.sleep(0.01)
            await find(tmp_path, job_id)
            assert leftover.wait(10) is not None
        finally:
            with suppress(ProcessLookupError):
                leftover.kill()


async def test_what_an_unclean_stop_leaves_is_no_obstacle(tmp_path: Path) -> None:
    """A stale socket, pid file and locks nobody holds do not stop the start."""
    job_id = await make_one(tmp_path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "valkey.sock"))
    (tmp_path / "valkey.pid").write_text("1\n")
    (tmp_path / "lock").write_text("")
    await find(tmp_path, job_id)


async def test_a_server_that_dies_is_started_again(tmp_path: Path) -> None:
    """The same client goes on, with all that was acknowledged."""
    async with embedded_valkey(tmp_path) as url, open_state(url) as state:
        for _ in range(2):
            job = make_job()
            await create(state, job)
            pid = server_pid(tmp_path)
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                while True:
                    with suppress(StateError):
                        await state.jobs.load(job.id)
                        break
            assert server_pid(tmp_path) != pid
    assert not alive(server_pid(tmp_path) if (tmp_path / "valkey.pid").exists() else 0)


async def test_a_file_that_was_cut_off_is_read(tmp_path: Path) -> None:
    """A last command that did not get to the disk whole is dropped, the rest is kept."""
    job_id = await make_one(tmp_path)
    (log,) = (tmp_path / "valkey").rglob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$1\r\nx")
    await find(tmp_path, job_id)


async def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    """Where the system allows no socket, a short private folder takes it while it runs."""
    data_dir = tmp_path / ("x" * 90)
    async with embedded_valkey(data_dir) as url, open_state(url) as state:
        await state.check()
        folder = Path(url.removeprefix("unix://")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert tmp_path not in folder.parents
    assert not folder.exists()


async def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    """The error says where to look, quotes the log, and leaves no process and no lock."""
    job_id = await make_one(tmp_path)
    (manifest,) = (tmp_path / "valkey").rglob("*.manifest")
    good = manifest.read_bytes()
    manifest.write_bytes(b"nonsense\n")
    with pytest.raises(StateError, match=r"valkey\.log"):
        await make_one(tmp_path)
    manifest.write_bytes(good)
    await find(tmp_path, job_id)


async def test_a_start_that_is_cancelled(tmp_path: Path) -> None:
    """However early, nothing is left: no process, no lock."""
    for turns in (1, 3, 10, 40):
        task = asyncio.create_task(make_one(tmp_path))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        lock = os.open(tmp_path / "valkey.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
    await make_one(tmp_path)


async def test_a_server_that_ignores_sigterm_is_killed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stop takes its time and no longer."""
    monkeypatch.setattr(embedded, "STOP_TIMEOUT", 0.3)
    async with embedded_valkey(tmp_path):
        pid = server_pid(tmp_path)
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid)


async def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """The error names the folder and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"file/data.*Not a directory"):
        await make_one(tmp_path / "file" / "data")


async def test_no_server_to_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error says what to install, or what to set instead."""
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StateError, match=r"install valkey.*state\.redis_url"):
        await make_one(tmp_path)
    program = tmp_path / "redis-server"
    program.symlink_to("/bin/true")
    assert embedded.find_server() == str(program)


async def test_an_error_of_the_caller_is_its_own(tmp_path: Path) -> None:
    """What goes wrong inside the context is not taken for a fault of the folder."""
    with pytest.raises(FileNotFoundError):
        async with embedded_valkey(tmp_path):
            raise FileNotFoundError
