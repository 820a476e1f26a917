"""The process's own temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from downloadd.errors import SpoolError
from downloadd.pipeline.spool_folder import spool_folder


def test_folders_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path: Path) -> None:
    """What a killed process left is gone; what another one uses stays."""
    left = tmp_path / "spool" / "left"
    left.mkdir(parents=True)
    (left / "payload").write_bytes(b"x")
    with spool_folder(tmp_path / "spool") as first:
        assert not left.exists()
        (first / "payload").write_bytes(b"x")
        with spool_folder(tmp_path / "spool") as second:
            assert second != first
            assert (first / "payload").exists()
        assert not second.exists()
    assert not first.exists()


def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    """A parent that is no folder is an error that names it."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError, match="file"), spool_folder(tmp_path / "file"):
        pass
