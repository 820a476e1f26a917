"""The process's own temporary folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from downloadd.errors import SpoolError
from downloadd.pipeline.spool_folder import SpoolFolder, spool_folder


def leave(parent: Path, owner: str, jobs: dict[str, float]) -> Path:
    """What a killed process leaves: a folder with jobs, by the time of their last change."""
    for job, changed in jobs.items():
        folder = parent / owner / job
        folder.mkdir(parents=True)
        (folder / "0").write_text(owner)
        os.utime(folder, (changed, changed))
    (parent / owner / ".lock").touch()
    return parent / owner


def taken_up(folder: SpoolFolder) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in folder.path.glob("*/*")}


def test_jobs_of_the_dead_are_adopted_and_those_of_the_living_kept(tmp_path: Path) -> None:
    """What a killed process left is this one's now; what another one works on stays its own."""
    dead = leave(tmp_path, "dead", {"job-1": 1.0})
    with spool_folder(tmp_path) as first:
        assert first.dead == ("dead",)
        assert first.owner == first.path.name
        assert taken_up(first) == {"job-1": "dead"}
        assert dead.exists(), "its jobs are not given free yet"
        first.forget_dead()
        assert first.dead == ()
        assert not dead.exists()
        with spool_folder(tmp_path) as second:
            assert second.owner != first.owner
            assert second.dead == ()
            assert taken_up(first) == {"job-1": "dead"}
        assert not second.path.exists()


def test_of_a_job_in_several_folders_the_newest_is_kept(tmp_path: Path) -> None:
    """Two that died left the same job: who worked on it last has the most of it."""
    leave(tmp_path, "a", {"job": 100.0, "other": 5.0})
    leave(tmp_path, "b", {"job": 300.0})
    leave(tmp_path, "c", {"job": 200.0})
    with spool_folder(tmp_path) as folder:
        assert sorted(folder.dead) == ["a", "b", "c"]
        assert taken_up(folder) == {"job": "b", "other": "a"}
        folder.forget_dead()
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.owner]


def test_a_folder_is_left_where_the_next_is_to_hear_of_it(tmp_path: Path) -> None:
    """Also without jobs in it: leases that could not be given up are in its name."""
    with spool_folder(tmp_path) as first:
        first.wanted = True
    with spool_folder(tmp_path) as second:
        assert second.dead == (first.owner,)


def test_a_folder_with_jobs_is_left_to_the_next(tmp_path: Path) -> None:
    """A process that ends leaves the jobs that are not done; an empty folder it removes."""
    with spool_folder(tmp_path) as first:
        (first.path / "job").mkdir()
        (first.path / "job" / "0").write_text("kept")
        (first.path / "empty").mkdir()
    assert first.path.exists()
    with spool_folder(tmp_path) as second:
        assert second.dead == (first.owner,)
        assert taken_up(second) == {"job": "kept"}
        shutil.rmtree(second.path / "job")
        second.forget_dead()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("gone", ["its own", "all"])
def test_a_folder_made_again_is_locked_again(tmp_path: Path, gone: str) -> None:
    """Whoever removes the folder of a living process does not make it look like a dead one's."""
    parent = tmp_path / "spool"
    with spool_folder(parent) as first:
        shutil.rmtree(first.path if gone == "its own" else parent)
        first.restore()
        (first.path / "job").mkdir()
        with spool_folder(parent) as second:
            assert second.dead == ()
            assert (first.path / "job").exists()


def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    """A parent that is no folder is an error that names it."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError, match="file"), spool_folder(tmp_path / "file"):
        pass
