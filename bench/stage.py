"""The stage: an origin, a storage and the service, each a real server on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.gateway import Gateway, run_gateway
from tests.ports import free_port

MIB = 1 << 20
LARGE_FILES, LARGE_SIZE = 64, 16 * MIB
SMALL_FILES, SMALL_SIZE = 300, 10 * 1024
START_SECONDS = 30.0


@dataclass(frozen=True)
class Usage:
    """What a process has used so far."""

    cpu_seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Service:
    """A running ``downloadd serve``."""

    url: str
    pid: int

    def usage(self) -> Usage:
        """CPU of the server with its Valkey, peak resident memory of the server alone."""
        pids = [self.pid, *children(self.pid)]
        return Usage(sum(map(cpu_seconds, pids)), peak_mib(self.pid))


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no peak memory of process {pid}")


def make_files(folder: Path) -> None:
    """Write the files that are served: random bytes, which do not shrink."""
    noise = random.Random(1)
    for number in range(LARGE_FILES):
        (folder / f"large-{number:02}.bin").write_bytes(noise.randbytes(LARGE_SIZE))
    for number in range(SMALL_FILES):
        (folder / f"small-{number:03}.bin").write_bytes(noise.randbytes(SMALL_SIZE))


@contextlib.contextmanager
def origin(folder: Path) -> Iterator[str]:
    """Serve a folder with nginx; yields its URL."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        raise SystemExit("bench: nginx is not installed (Debian: apt-get install nginx-light)")
    port, state = free_port(), folder.parent / "nginx"
    state.mkdir()
    config = state / "nginx.conf"
    temp = " ".join(
        f"{kind}_temp_path {state}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"daemon off; pid {state}/pid; error_log {state}/error.log; worker_processes 1;"
        "events { worker_connections 1024; }"
        f"http {{ access_log off; sendfile on; keepalive_requests 100000; {temp}"
        f" server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
    )
    command = [nginx, "-c", str(config), "-p", str(state), "-e", str(state / "error.log")]
    if os.geteuid() == 0:
        command += ["-g", "user root;"]
    with running(command, state / "out.log"):
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/small-000.bin")
        yield url


@contextlib.contextmanager
def storage(folder: Path) -> Iterator[Gateway]:
    folder.mkdir()
    with run_gateway(folder) as gateway:
        yield gateway


@contextlib.contextmanager
def service(
    folder: Path,
    origin_url: str,
    gateway: Gateway | None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """Run ``downloadd serve`` on S3 or (None) a local folder, by default with its defaults."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "DOWNLOADD_NETWORK_ALLOW": origin_url.removeprefix("http://"),
        # More than anybody asks here: what is measured is the work.
        "DOWNLOADD_LIMITS_REQUESTS_PER_MINUTE": "1000000",
        "DOWNLOADD_LIMITS_JOBS_PER_MINUTE": "1000000",
        "DOWNLOADD_LIMITS_STREAMS_PER_CLIENT": "1000000",
        **(settings or {}),
    }
    if gateway is not None:
        environment |= {
            "S3_BUCKET_NAME": "bench",
            "S3_ENDPOINT": gateway.endpoint,
            "S3_REGION": gateway.region,
            "S3_ACCESS_KEY_ID": gateway.access_key_id,
            "S3_SECRET_ACCESS_KEY": gateway.secret_access_key,
            "S3_FORCE_PATH_STYLE": "true",
        }
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "downloadd", "serve", "--port", str(port)]
    command += ["--data-dir", str(folder / "data")]
    with running(command, folder / "serve.log", environment) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health")
        yield Service(url, process.pid)


@contextlib.contextmanager
def running(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def post(url: str, body: object) -> dict[str, object]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        data: dict[str, object] = json.load(answer)
        return data


def get(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        data: dict[str, object] = json.load(answer)
        return data
