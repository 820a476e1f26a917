"""The installed program: ``downloadd demo``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.e2e.test_serve import valkeys

PATIENCE = 60


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "tmp").mkdir()
    (folder / "here").mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "downloadd", "demo", *arguments],
        cwd=folder / "here",
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return end(start(folder, *arguments))


def test_the_demo_proves_itself_and_leaves_nothing(tmp_path: Path) -> None:
    """It ends with 0, every file verified, the link shown; no file and no process is left."""
    ended = demo(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "\x1b" not in ended.stdout
    rows = [line for line in ended.stdout.splitlines() if "✓" in line]
    assert len(rows) >= 10
    assert "DIFFERS" not in ended.stdout
    assert "/v1/files/" in ended.stdout
    assert "flaky.dat lost its connection twice and went on at" in ended.stdout
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list((tmp_path / "here").iterdir()) == []
    assert valkeys(tmp_path) == []


def test_the_demo_keeps_its_archive_when_told(tmp_path: Path) -> None:
    """With --output the archive is kept, and is what the demo said of it."""
    ended = demo(tmp_path, "--output", "kept.zip")
    assert ended.returncode == 0, ended.stderr
    with zipfile.ZipFile(tmp_path / "here" / "kept.zip") as archive:
        assert archive.testzip() is None
        assert {"large.dat", "photo (2).dat", "Übersicht 概要.txt"} <= set(archive.namelist())


def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in mid-job: the shell's status, no word on standard error, nothing left."""
    process = start(tmp_path, "--output", "kept.zip")
    assert process.stdout is not None
    while not process.stdout.readline().startswith("[1/"):  # a first file has arrived
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    ended = end(process)
    assert ended.returncode == 130
    assert ended.stderr == ""
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list((tmp_path / "here").iterdir()) == []
    assert valkeys(tmp_path) == []


def test_the_demo_overwrites_nothing(tmp_path: Path) -> None:
    """An existing file is refused at once with the status of wrong use."""
    kept = tmp_path / "kept.zip"
    kept.write_text("mine")
    ended = demo(tmp_path, "--output", str(kept))
    assert ended.returncode == 2
    assert kept.read_text() == "mine"
