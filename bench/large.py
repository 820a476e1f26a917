"""64 files of 16 MiB from nginx to one ZIP in S3: the service against curl + zip + s5cmd."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.stage import LARGE_FILES, LARGE_SIZE, Service, get, post
from tests.gateway import Gateway

JOB_SECONDS = 120.0


@dataclass(frozen=True)
class Result:
    wall: float
    cpu: float
    peak_mib: float


def with_downloadd(service: Service, origin: str) -> Result:
    """One job, from the request to the terminal state; every file hashed and verified."""
    urls = [f"{origin}/large-{number:02}.bin" for number in range(LARGE_FILES)]
    before, begun = service.usage(), time.perf_counter()
    job = post(
        f"{service.url}/v1/download/initiate",
        {"source_urls": urls, "options": {"dedupe": False}},
    )
    while True:
        state = get(f"{service.url}{job['statusUrl']}")
        if state["status"] not in ("queued", "processing"):
            break
        if time.perf_counter() - begun > JOB_SECONDS:
            raise RuntimeError(f"the job takes too long: {state}")
        time.sleep(0.02)
    wall, after = time.perf_counter() - begun, service.usage()
    size = state.get("totalSize")
    if state["status"] != "completed" or not isinstance(size, int):
        raise RuntimeError(f"the job ended as {state['status']}: {state.get('error')}")
    if size < LARGE_FILES * LARGE_SIZE:
        raise RuntimeError(f"the archive has only {size} bytes")
    return Result(wall, after.cpu_seconds - before.cpu_seconds, after.peak_mib)


def with_shell(folder: Path, origin: str, gateway: Gateway) -> Result:
    """What people would write: curl in parallel, zip without compression, s5cmd."""
    folder.mkdir()
    urls = [f"{origin}/large-{number:02}.bin" for number in range(LARGE_FILES)]
    config = folder / "curl.txt"
    config.write_text("".join(f'url = "{url}"\nremote-name\n' for url in urls))
    environment = {
        **os.environ,
        # s5cmd is installed beside this interpreter.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AWS_ACCESS_KEY_ID": gateway.access_key_id,
        "AWS_SECRET_ACCESS_KEY": gateway.secret_access_key,
        "AWS_REGION": gateway.region,
        "S3_ENDPOINT_URL": gateway.endpoint,
    }
    steps = [
        [
            "curl",
            "--no-progress-meter",
            "--fail",
            "--parallel",
            "--parallel-max",
            "8",
            "-K",
            "curl.txt",
        ],
        ["sh", "-c", "zip -q -0 archive.zip large-*.bin"],
        ["s5cmd", "--log", "error", "cp", "archive.zip", "s3://bench/shell.zip"],
    ]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for step in steps:
        subprocess.run(step, cwd=folder, env=environment, check=True, timeout=JOB_SECONDS)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Result(wall, cpu, after.ru_maxrss / 1024)
