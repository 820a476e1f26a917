"""A real Valkey for tests, on a socket or a loopback port, stopped by its process id."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from downloadd.errors import StateError
from downloadd.state.embedded import find_server
from tests.ports import free_port
from tests.tools import missing


class Valkey:
    """A server that can be killed and started again on the same data."""

    def __init__(self, folder: Path, *, tcp: bool, args: tuple[str, ...]) -> None:
        self.folder = folder
        self.port = free_port() if tcp else 0
        self.socket = folder / "v.sock"
        self.url = f"redis://127.0.0.1:{self.port}" if tcp else f"unix://{self.socket}"
        self._args = args
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [find_server(), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", ""]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._args],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(7) in (b"+PONG\r\n", b"-NOAUTH")
            except OSError:
                return False

    def call(self, *args: str) -> bytes:
        """Send one command over a connection of its own and return the raw answer."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(5)
            wire.connect(str(self.socket))
            parts = "".join(f"${len(arg.encode())}\r\n{arg}\r\n" for arg in args)
            wire.sendall(f"*{len(args)}\r\n{parts}".encode())
            return wire.recv(1 << 20)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As kill -9; on return it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def pause(self) -> None:
        """Stop it in its tracks: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Remove all that it has on disk; it must not be running."""
        shutil.rmtree(self.folder / "appendonlydir")

    def stop(self) -> None:
        if self._process is not None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def valkey_server(
    *,
    tcp: bool = False,
    durable: bool = False,
    args: tuple[str, ...] = (),
) -> Iterator[Valkey]:
    """Run a server in a folder of its own; the test is skipped where there is none to run."""
    try:
        find_server()
    except StateError:
        missing("a Valkey or Redis server")
    if durable:
        args = ("--appendonly", "yes", "--appendfsync", "always", *args)
    folder = Path(tempfile.mkdtemp(prefix="valkey-"))
    server = Valkey(folder, tcp=tcp, args=args)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
