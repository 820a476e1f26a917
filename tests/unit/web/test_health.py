"""What is asked of the disk."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from downloadd.web.health import Disk


async def test_room(tmp_path: Path) -> None:
    """Size and what is free; nothing where there is no such folder."""
    found = await Disk(tmp_path).room(5)
    assert found is not None
    assert found[0] >= found[1] > 0
    assert await Disk(tmp_path / "none").room(5) is None


async def test_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds one thread, however often it is asked, and is heard when it answers again."""
    release, asked = threading.Event(), []
    usage = shutil.disk_usage(tmp_path)

    def hangs(_: Path) -> object:
        asked.append(1)
        release.wait(30)
        return usage

    monkeypatch.setattr("shutil.disk_usage", hangs)
    disk = Disk(tmp_path)
    before = threading.active_count()
    for _ in range(5):
        assert await disk.room(0.01) is None
    assert (len(asked), threading.active_count()) == (1, before + 1)
    release.set()
    assert await disk.room(5) == (usage.total, usage.free)
