"""``downloadd keys``: what it prints, what it refuses, and its exit status."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from downloadd.access import api_keys
from downloadd.cli import main


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOWNLOADD_STATE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "api-keys.json"


def test_add_list_revoke(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key is all that is printed, once; the list has what is known of it, and no more."""
    assert main(["keys", "add", "--user", "ann"]) == 0
    key = capsys.readouterr().out.strip()
    assert re.fullmatch(r"dk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", key)
    assert main(["keys", "add", "--user", "root", "--role", "admin", "--days", "1"]) == 0
    assert main(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert key.split("_")[1] in shown
    assert key.split("_", 2)[2] not in shown
    assert re.search(r"never +user +ann\n", shown)
    assert re.search(r"admin +root\n", shown)
    assert main(["keys", "revoke", key.split("_")[1]]) == 0
    assert [key.user for key in api_keys.read(path)] == ["root"]
    assert main(["keys", "revoke", key.split("_")[1]]) == 1
    assert "There is no key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--user", ""], "--user"),
        (["--user", "a\nb"], "--user"),
        (["--user", "ann", "--role", "root"], "user, admin"),
        (["--user", "ann", "--days", "0"], "--days"),
        (["--user", "ann", "--days", "-1"], "--days"),
        (["--user", "ann", "--days", "nan"], "--days"),
    ],
)
def test_what_is_refused(
    path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """With one line, status 2, and no key."""
    assert main(["keys", "add", *arguments]) == 2
    shown = capsys.readouterr()
    assert (shown.out, said in shown.err, shown.err.count("\n")) == ("", True, 1)
    assert not path.exists()


def test_another_file(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    assert main(["keys", "add", "--user", "ann", "--file", str(other)]) == 0
    assert [key.user for key in api_keys.read(other)] == ["ann"]
    assert not path.exists()
    other.write_text("no keys")
    assert main(["keys", "list", "--file", str(other)]) == 2
    assert "other.json" in capsys.readouterr().err


@pytest.mark.parametrize("action", [["keys", "add", "--user", "ann"], ["check-config"]])
def test_a_folder_that_may_not_be_looked_into(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], action: list[str]
) -> None:
    """Whether there are settings cannot be told: one line, and no key by others' settings."""
    # As EACCES, but for root as well: a name that the system does not take.
    (tmp_path / "config.toml").symlink_to("x" * 300)
    assert main(action) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "config.toml cannot be looked at" in shown.err
    assert "--config" in shown.err
    assert not path.exists()
