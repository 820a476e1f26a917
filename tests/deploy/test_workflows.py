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


def steps(name: str, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = load(ROOT / ".github/workflows" / name)["jobs"][job]["steps"]
    return found


def test_the_whole_service_is_run_and_what_it_is_made_of_audited() -> None:
    ran = [step.get("run") for step in steps("ci.yml", "image")]
    assert ran.index(".ci/image downloadd:ci") < ran.index(".ci/stack")
    (audit,) = (
        one["run"] for one in steps("ci.yml", "audit") if "pip-audit -" in one.get("run", "")
    )
    assert "--requirement requirements.lock --require-hashes" in audit


def test_the_weekly_run_and_a_push_do_not_end_each_other() -> None:
    workflow = load(ROOT / ".github/workflows/ci.yml")
    assert {"push", "schedule"} <= workflow["on"].keys()
    assert "github.event_name" in workflow["concurrency"]["group"]


def test_a_release_is_started_and_scanned_before_anybody_can_have_it() -> None:
    """Pushed under a name that is no name of a repository, which may have capitals."""
    order = []
    for step in steps("release.yml", "image"):
        given = step.get("with", {})
        kinds = {
            "try": step.get("run") == ".ci/image downloadd:candidate",
            "scan": given.get("image-ref") == "downloadd:candidate",
            "push": given.get("push") == "true",
        }
        order += [kind for kind, it_is in kinds.items() if it_is]
        assert "github.repository" not in str(given)
    assert order == ["try", "scan", "push"]
    (name,) = (one for one in steps("release.yml", "image") if one.get("id") == "name")
    done = subprocess.run(
        ["bash", "-ec", name["run"].replace('>>"$GITHUB_OUTPUT"', "")],
        env={"IMAGE": "registry.example/Somebody/Downloadd"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "image=registry.example/somebody/downloadd\n"
    assert "image" in load(ROOT / ".github/workflows/release.yml")["jobs"]["release"]["needs"]


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
