"""A real nginx with the shipped ``nginx.conf``, stopped by its process id.

Put in: the servers of its upstreams, its port, and a folder in place of /tmp,
for several run beside each other. All else is as it is shipped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.tools import require_tool

CONFIG = Path(__file__).parents[1] / "nginx.conf"
#: Seconds for what takes less than one.
PATIENCE = 20.0


class Nginx:
    """Before ``apps`` and a ``storage``, ports of this machine; on 127.0.0.1 and its neighbours."""

    def __init__(
        self, folder: Path, apps: Sequence[int], storage: int = 9, text: str | None = None
    ) -> None:
        """``text``: a changed configuration."""
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output, self.errors = folder / "nginx.out", folder / "nginx.err"
        self.config = folder / "nginx.conf"
        self.config.write_text(self._filled_in(text or CONFIG.read_text(), apps, storage))
        self._process: subprocess.Popen[bytes] | None = None

    def _filled_in(self, text: str, apps: Sequence[int], storage: int) -> str:
        servers = " ".join(f"server 127.0.0.1:{port};" for port in apps)
        for shipped, here in (
            ("server app:3000 resolve;", servers),
            ("server minio:9000 resolve;", f"server 127.0.0.1:{storage};"),
            ("listen 8080 default_server;", f"listen 127.0.0.1:{self.port} default_server;"),
        ):
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, here)
        return re.sub(r"(?<= )/tmp/", f"{self.folder}/", text)

    def command(self, *args: str) -> list[str]:
        # As root nginx would give its files to nobody, who may not come here.
        user = "user root; " if os.getuid() == 0 else ""
        return [
            *(require_tool("nginx", "/usr/sbin/nginx"), "-c", str(self.config)),
            *("-e", "stderr", "-g", f"{user}daemon off;", *args),
        ]

    def check(self) -> subprocess.CompletedProcess[str]:
        """``nginx -t``."""
        return subprocess.run(
            self.command("-t"), capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    def start(self) -> None:
        with self.output.open("ab") as output, self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, self.errors.read_text()
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def reload(self) -> None:
        """``nginx -s reload``; returns when new workers have taken over."""
        before = self.errors.read_text().count("start worker process ")
        subprocess.run(
            self.command("-s", "reload"), capture_output=True, timeout=PATIENCE, check=True
        )
        deadline = time.monotonic() + PATIENCE
        while self.errors.read_text().count("gracefully shutting down") == 0 or (
            self.errors.read_text().count("start worker process ") == before
        ):
            assert time.monotonic() < deadline, self.errors.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """At once: what is under way is cut off."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                # Its workers are of its session, and nobody else is.
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(PATIENCE)

    def log(self, request_id: str | None = None) -> list[dict[str, Any]]:
        """The access log's lines; those of one request."""
        lines = [json.loads(line) for line in self.output.read_text().splitlines()]
        return [line for line in lines if request_id in (None, line["requestId"])]


@contextmanager
def nginx_server(
    folder: Path, apps: Sequence[int], storage: int = 9, text: str | None = None
) -> Iterator[Nginx]:
    """Run one with its files in ``folder``; the test is skipped where there is none."""
    require_tool("nginx", "/usr/sbin/nginx")
    folder.mkdir(exist_ok=True)
    server = Nginx(folder, apps, storage, text)
    try:
        server.start()
        yield server
    finally:
        server.stop()
