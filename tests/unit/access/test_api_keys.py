"""Files of API keys: what is kept, who changes it, and what is no such file."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from downloadd.access import api_keys
from downloadd.access.api_keys import ApiKeys, add, parse, read, revoke
from downloadd.access.caller import Caller, is_user_name
from downloadd.errors import ConfigError, Unauthorized

ROLES = ("user", "admin")


async def test_a_key_is_known_by_its_hash(tmp_path: Path) -> None:
    """What is printed identifies its user; what is kept does not contain it."""
    path = tmp_path / "a" / "keys.json"
    key = add(path, user="ann", role="admin", now=5.0)
    assert await ApiKeys(path, ROLES).identify(key) == Caller(user="ann", role="admin")
    (kept,) = read(path)
    assert (kept.user, kept.role, kept.created_at, kept.expires_at) == ("ann", "admin", 5.0, None)
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_one_that_has_expired(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = add(path, user="ann", role="user", now=0.0, expires_at=100.0)
    assert (await ApiKeys(path, ROLES, lambda: 99.9).identify(key)).user == "ann"
    with pytest.raises(Unauthorized, match="expired"):
        await ApiKeys(path, ROLES, lambda: 100.0).identify(key)


def test_revoking(tmp_path: Path) -> None:
    """The one named goes, the others stay; one that is not there is told."""
    path = tmp_path / "keys.json"
    first, second = (add(path, user=user, role="user", now=0) for user in ("ann", "bob"))
    assert revoke(path, first.split("_")[1]).user == "ann"
    assert [key.user for key in read(path)] == ["bob"]
    with pytest.raises(ConfigError, match="no key"):
        revoke(path, first.split("_")[1])
    assert revoke(path, second.split("_")[1]).user == "bob"
    assert read(path) == []


def test_several_at_once(tmp_path: Path) -> None:
    """No one's key is lost when two are made at the same moment."""
    path = tmp_path / "keys.json"
    makers = [
        threading.Thread(target=lambda: add(path, user="ann", role="user", now=0))
        for _ in range(20)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(read(path)) == 20
    assert not list(tmp_path.glob("*.draft"))


def test_the_files_rights_are_kept(tmp_path: Path) -> None:
    """The server may run as somebody else than who makes keys."""
    path = tmp_path / "keys.json"
    add(path, user="ann", role="user", now=0)
    path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(path, 12345, 23456)
    was, mask = path.stat(), os.umask(0o077)
    try:
        add(path, user="bob", role="user", now=0)
    finally:
        os.umask(mask)
    now = path.stat()
    assert (now.st_mode, now.st_uid, now.st_gid) == (was.st_mode, was.st_uid, was.st_gid)


def test_a_link_stays_one(tmp_path: Path) -> None:
    """Keys that are kept elsewhere, and linked to, are changed there."""
    path, link = tmp_path / "real" / "keys.json", tmp_path / "keys.json"
    path.parent.mkdir()
    link.symlink_to(path)
    add(link, user="ann", role="user", now=0)
    assert link.is_symlink()
    assert [key.user for key in read(path)] == ["ann"]


async def test_a_file_that_can_be_read_again_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that could not be read is tried again, though nothing was written to it since."""
    path = tmp_path / "keys.json"
    key = add(path, user="ann", role="user", now=0)
    known = ApiKeys(path, ROLES)
    known._file._check = 0.0
    revoke(path, key.split("_")[1])
    read_bytes = Path.read_bytes

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    # Root may read everything: the file's mode alone would show nothing.
    monkeypatch.setattr(Path, "read_bytes", denied)
    assert (await known.identify(key)).user == "ann"
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(Unauthorized):
        await known.identify(key)


def test_no_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="downloadd keys add"):
        ApiKeys(tmp_path / "none.json", ROLES)
    assert read(tmp_path / "none.json") == []


def entry(**changes: Any) -> dict[str, Any]:
    good = {
        "id": "a",
        "user": "ann",
        "role": "user",
        "sha256": "0" * 64,
        "created_at": 1.5,
        "expires_at": None,
    }
    return {name: value for name, value in {**good, **changes}.items() if value != "gone"}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"keys": {}},
        {"keys": ["x"]},
        {"keys": [entry(more=1)]},
        {"keys": [entry(sha256="gone")]},
        {"keys": [entry(sha256="zz")]},
        {"keys": [entry(sha256=7)]},
        {"keys": [entry(user="")]},
        {"keys": [entry(user=7)]},
        {"keys": [entry(user="a\nb")]},
        {"keys": [entry(role=None)]},
        {"keys": [entry(role="root")]},
        {"keys": [entry(created_at="now")]},
        {"keys": [entry(expires_at=True)]},
        {"keys": [entry(expires_at="")]},
        {"keys": [entry(expires_at=[])]},
        {"keys": [entry(expires_at=float("nan"))]},
        {"keys": [entry(created_at=float("inf"))]},
        {"keys": [entry(), entry()]},
    ],
    ids=str,
)
def test_what_is_no_file_of_keys(document: Any, tmp_path: Path) -> None:
    """It stops the start, by name."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"keys\.json"):
        ApiKeys(path, ROLES)


def test_nothing_is_written_over_what_cannot_be_read(tmp_path: Path) -> None:
    """A file that is spoilt, or something else, stays as it is."""
    path = tmp_path / "keys.json"
    path.write_text("my notes")
    with pytest.raises(ConfigError):
        add(path, user="ann", role="user", now=0)
    assert path.read_text() == "my notes"


def test_good_entries() -> None:
    (key,) = parse(json.dumps({"keys": [entry(expires_at=3)]}).encode(), ROLES)
    assert key.expires_at == 3
    assert api_keys.digest("x") != api_keys.digest("y")


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("ann", True),
        ("a b", True),
        ("ann@example.com", True),
        ("é", True),
        ("x" * 255, True),
        ("x" * 256, False),
        ("", False),
        (" ann", False),
        ("a\0b", False),
        ("a\x85b", False),
        ("\ud800", False),
        (None, False),
        (7, False),
    ],
)
def test_names_of_users(name: object, good: bool) -> None:
    assert is_user_name(name) is good
