"""The workflows: that they are what GitHub takes, and give nobody more than they need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.compose import ROOT
from tests.tools import require_tool

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader)
    return loaded


def test_they_are_what_github_says() -> None:
    """By the official JSON schema, which check-jsonschema brings."""
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]
    done = subprocess.run(
        [
            *(require_tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows"),
            *map(str, WORKFLOWS),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_nothing() -> None:
    """Injections, credentials left about, rights too wide, actions that can be exchanged."""
    done = subprocess.run(
        [require_tool("zizmor"), "--offline", "--no-progress", *map(str, WORKFLOWS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow(path: Path) -> None:
    """Rights are said, small at the top; no job runs for hours; what it runs is here."""
    workflow = load(path)
    assert workflow["permissions"] in ({"contents": "read"}, {})
    for job in workflow["jobs"].values():
        assert int(job["timeout-minutes"]) <= 40
        for step in job["steps"]:
            if "uses" in step:
                assert re.search(r"@[0-9a-f]{40}\Z", step["uses"])
            if match := re.match(r"(\.ci|deploy)/\w+", step.get("run", "")):
                assert (ROOT / match[0]).stat().st_mode & 0o111


def notes(folder: Path, tag: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / ".ci/notes"), tag], capture_output=True, text=True, check=False
    )


def test_the_notes_of_a_release(tmp_path: Path) -> None:
    """Those of its version and no other's; none without, nor with a tag of another version."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "pyproject.toml").write_text('version = "1.2.3"\n', "utf-8")
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(
        "# Changelog\n## [Unreleased]\n- later\n## [1.2.3] - 2027-01-02\n### Added\n- it\n"
        "## [1.2.30]\n- no\n## [1.2.2]\n- before\n",
        "utf-8",
    )
    assert notes(tmp_path, "v1.2.3").stdout == "### Added\n- it\n"
    assert "the tag says 1.2.4" in notes(tmp_path, "v1.2.4").stderr
    changelog.write_text("# Changelog\n## [Unreleased]\n- later\n", "utf-8")
    done = notes(tmp_path, "v1.2.3")
    assert done.returncode == 1
    assert "nothing under ## [1.2.3]" in done.stderr
