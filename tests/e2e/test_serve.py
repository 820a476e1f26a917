"""The installed program: ``downloadd serve`` as a subprocess, from its start to its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

#: Seconds for what takes one or two when the machine is not busy.
PATIENCE = 30


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "downloadd", *arguments]


@contextmanager
def serve(data_dir: Path, *arguments: str, **environ: str) -> Iterator[tuple[Any, str]]:
    """Run a server; give the process and its address once it is healthy."""
    port = free_port()
    log = data_dir.parent / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("serve", "--port", str(port), "--data-dir", str(data_dir), *arguments),
            stdout=output,
            stderr=output,
            env={**os.environ, **environ},
            cwd=data_dir.parent,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_healthy(process, url, log)
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE)


def wait_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if get(f"{url}/health")["status"] == "healthy":
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(log.read_text())


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.load(response)


def valkeys(data_dir: Path) -> list[str]:
    """Processes that run on a data directory, the server itself aside."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(b"valkey" in word for word in words[:1]) and str(data_dir).encode() in b" ".join(
            words
        ):
            found.append(cmdline.parent.name)
    return found


def run(arguments: Sequence[str], cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=cwd,
        env={**os.environ, **environ},
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    """The program is healthy soon, ends with status 0 when told to, and leaves no process."""
    data_dir = tmp_path / "data"
    with serve(data_dir) as (process, url):
        assert get(url)["name"] == "downloadd"
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    assert valkeys(data_dir) == []


def test_it_says_where_it_listens_and_that_it_is_open(tmp_path: Path) -> None:
    """The start's log lines say the address, the storage, the state, and that auth is none."""
    with serve(tmp_path / "data") as (_, url):
        (log,) = tmp_path.glob("*.log")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    (listening,) = [line for line in lines if line["message"] == "server.listening"]
    assert listening["url"] == url
    assert (listening["auth"], listening["storage"]) == ("none", "local")
    assert listening["state"] == "embedded valkey"
    assert [line for line in lines if line["message"] == "server.open"]


def test_the_log_does_not_repeat_broken_requests(tmp_path: Path) -> None:
    """What is no HTTP, and a client that goes away, is a line without what was sent, no error."""
    path = b"/v1/download/initiate"
    post_head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    broken = (
        b"GET /v1/files/a?expires=1&code=SECRET\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: SECRET\x00\r\n\r\n",
        post_head + b"Transfer-Encoding: chunked\r\n\r\nSECRET\r\n",
    )
    with serve(tmp_path / "data") as (process, url):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        for raw in broken:
            with socket.create_connection(address, PATIENCE) as client:
                client.sendall(raw)
                assert client.recv(100).startswith(b"HTTP/1.1 400 ")
        with socket.create_connection(address, PATIENCE) as client:
            client.sendall(post_head + b"Content-Length: 100\r\n\r\nSECRET")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        (log,) = tmp_path.glob("*.log")
        deadline = time.monotonic() + PATIENCE
        while '"status": 499' not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)  # a server that is being stopped refuses it instead
        process.terminate()
        assert process.wait(PATIENCE) == 0
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert "SECRET" not in text
    assert {line["level"] for line in lines} == {"info", "warning"}
    refused = [line for line in lines if line["message"] == "http.refused"]
    assert [line["problem"] for line in refused] == [
        "InvalidURLError",
        "BadHttpMessage",
        "BadHttpMessage",
    ]
    assert 499 in [line.get("status") for line in lines]


def test_jobs_survive_a_kill(tmp_path: Path) -> None:
    """A job that was acknowledged is there after kill -9, on the same data directory."""
    data_dir = tmp_path / "data"
    with serve(data_dir, DOWNLOADD_FETCH_RETRIES="0") as (process, url):
        job = post(f"{url}/v1/download/initiate", {"source_urls": ["http://nowhere.invalid/a"]})
        process.kill()
        process.wait(PATIENCE)
    with serve(data_dir) as (_, url):
        again = get(f"{url}/v1/download/status/{job['jobId']}")
        assert again["createdAt"] == job["createdAt"]


def test_open_streams_do_not_hold_up_the_end(tmp_path: Path) -> None:
    """With subscribers connected, SIGTERM ends the program within seconds, not a minute."""
    with socket.socket() as listener:
        # An origin that accepts and never answers keeps the job, and so the stream, going.
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        source = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        with serve(tmp_path / "data", DOWNLOADD_NETWORK_ALLOW="127.0.0.1") as (process, url):
            job = post(f"{url}/v1/download/initiate", {"source_urls": [source]})
            stream = urllib.request.urlopen(f"{url}{job['subscribeUrl']}", timeout=PATIENCE)
            with stream:
                assert stream.readline() == b"retry: 3000\r\n"
                process.send_signal(signal.SIGTERM)
                stream.read()
            # Nothing but the job is waited for now; the second signal gives it up.
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


def test_one_data_directory_has_one_owner(tmp_path: Path) -> None:
    """A second start on a data directory in use is refused in one line, with status 1."""
    data_dir = tmp_path / "data"
    with serve(data_dir):
        second = run(["serve", "--port", "0", "--data-dir", str(data_dir)], tmp_path)
    assert second.returncode == 1
    assert len(second.stderr.splitlines()) == 1
    assert str(data_dir) in second.stderr


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """A port that is taken ends the start with one line that names it, and status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run(["serve", "--port", port, "--data-dir", str(tmp_path / "data")], tmp_path)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert port in ended.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--port", "eighty"], "port"),
        (["serve", "--config", "missing.toml"], "missing.toml"),
        (["serve", "--host", "0.0.0.0"], "host"),
        (["check-config", "--port", "70000"], "port"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, arguments: list[str], named: str) -> None:
    """A setting that cannot be ends the start with one line that names it, and status 2."""
    ended = run(arguments, tmp_path)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert named in ended.stderr


def test_the_config_file_of_the_folder_is_read(tmp_path: Path) -> None:
    """./config.toml counts without being named; a flag wins over it."""
    (tmp_path / "config.toml").write_text("[server]\nport = 70000\n")
    assert run(["check-config"], tmp_path).returncode == 2
    shown = run(["check-config", "--port", "3001"], tmp_path)
    assert "port = 3001" in shown.stdout


def test_check_config_and_version(tmp_path: Path) -> None:
    """The other ways to call the program answer and end."""
    shown = run(["check-config"], tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "[server]" in shown.stdout
    assert run(["--version"], tmp_path).stdout.startswith("downloadd ")
    assert run([], tmp_path).returncode == 2
