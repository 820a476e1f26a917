"""What only the local store has to bear: crashes, odd keys, full disks, its own links."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from downloadd.errors import (
    ConfigError,
    LinkInvalid,
    ObjectMissing,
    StorageCorrupt,
    StorageRefused,
    StorageUnavailable,
    UploadMissing,
)
from downloadd.model import Archive
from downloadd.objects.links import load_secret
from downloadd.objects.local import LocalFile, LocalStore, open_local_store
from downloadd.ports import ObjectMeta
from tests.folders import file_sizes

from .conftest import BASE_URL, SECRET
from .support import META, MIB, Body, random_bytes


def files_in(folder: Path) -> list[str]:
    files = [path for path in file_sizes(folder) if path.name != ".lock"]
    return sorted(str(path.relative_to(folder)) for path in files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where ``local_store`` keeps its objects."""
    return tmp_path / "objects"


async def reopened(folder: Path, ask: object) -> object:
    """Call a coroutine function with a store that another process might have opened."""
    async with open_local_store(folder, base_url=BASE_URL, secret=SECRET) as store:
        return await ask(store)  # type: ignore[operator]


# --- keys ---


@pytest.mark.parametrize(
    "key",
    [
        "", "/etc/passwd", "../a", "a/../b", "a/./b", "a//b", "a/", ".uploads/x", ".meta/x",
        "a\0b", "a\nb", "a\\b", "x" * 1025, "\ud800",
    ],
)  # fmt: skip
async def test_keys_that_lead_elsewhere(local_store: LocalStore, folder: Path, key: str) -> None:
    """Keys that are not plain relative paths are refused and touch nothing."""
    before = files_in(folder.parent)
    with pytest.raises(StorageRefused):
        await local_store.put(key, Body(b"data"), META)
    with pytest.raises(StorageRefused):
        await local_store.begin(key, META)
    with pytest.raises(StorageRefused):
        await local_store.head(key)
    with pytest.raises(StorageRefused):
        await local_store.delete(key)
    assert files_in(folder.parent) == before


async def test_a_segment_too_long_for_the_disk(local_store: LocalStore) -> None:
    """What the file system does not take as a name is refused."""
    with pytest.raises(StorageRefused, match="too long"):
        await local_store.put("x" * 300, Body(b"data"), META)


async def test_a_folder_is_no_object(local_store: LocalStore) -> None:
    """A key that is another one's folder names no object."""
    await local_store.put("a/b.zip", Body(b"data"), META)
    assert await local_store.head("a") is None
    assert await local_store.head("a/b.zip/c") is None
    with pytest.raises(StorageRefused):
        await local_store.put("a", Body(b"data"), META)


# --- what stays on the disk ---


async def test_nothing_is_left_behind(local_store: LocalStore, folder: Path) -> None:
    """Objects deleted, uploads aborted and puts refused leave no file and no folder."""
    await local_store.put("jobs/1/a.zip", Body(b"data"), META)
    await local_store.delete("jobs/1/a.zip")
    upload_id = await local_store.begin("b.zip", META)
    await local_store.upload_part("b.zip", upload_id, 1, Body(b"data"))
    await local_store.abort("b.zip", upload_id)
    with pytest.raises(StorageCorrupt):
        await local_store.put("c.zip", Body(bytes(3 * MIB), crc32=1), META)
    upload_id = await local_store.begin("d.zip", META)
    part = await local_store.upload_part("d.zip", upload_id, 1, Body(b"data"))
    await local_store.complete("d.zip", upload_id, [part])
    await local_store.delete("d.zip")
    assert files_in(folder) == []
    assert sorted(path.name for path in folder.rglob("*")) == [".lock", ".meta", ".uploads"]


async def test_drafts_of_the_dead_are_swept(tmp_path: Path) -> None:
    """What a killed process was writing is removed at the next start, unless others are alive."""
    folder = tmp_path / "archives"
    await reopened(folder, lambda store: store.check())
    put, half = folder / ".uploads" / "put-x", folder / ".uploads" / ("a" * 32)
    put.write_bytes(b"data")
    half.mkdir()  # of which nobody was told
    stranger = folder / ".uploads" / "notes"
    stranger.mkdir()

    async def another(store: LocalStore) -> None:
        begun = folder / ".uploads" / await store.begin("a.zip", META)
        put.write_bytes(b"data")
        half.mkdir()
        await reopened(folder, lambda store: store.check())
        assert all(path.exists() for path in (put, half, begun))

    await reopened(folder, another)
    assert sorted(path.name for path in half.parent.iterdir() if len(path.name) < 32) == [
        "notes",
        "put-x",
    ]
    await reopened(folder, lambda store: store.check())
    assert not put.exists()
    assert not half.exists()
    assert len(list(stranger.parent.iterdir())) == 2, (
        "the stranger's, and the upload that was begun"
    )


async def test_puts_and_deletes_in_one_folder(local_store: LocalStore) -> None:
    """A folder that empties and fills again loses no put."""

    async def there_and_back(number: int) -> None:
        for _ in range(20):
            await local_store.put(f"jobs/{number}.zip", Body(b"data"), META)
            await local_store.delete(f"jobs/{number}.zip")

    await asyncio.gather(*(there_and_back(number) for number in range(8)))


# --- crashes ---


async def test_parts_survive_a_crash(local_store: LocalStore, folder: Path) -> None:
    """Another process finds the acknowledged parts, not the line that was being written."""
    data = random_bytes(3 * MIB)
    upload_id = await local_store.begin("a.zip", META)
    first = await local_store.upload_part("a.zip", upload_id, 1, Body(data[:MIB]))
    journal = folder / ".uploads" / upload_id / "parts"
    with journal.open("ab") as file:
        file.write(b"\n[2, 10485")

    async def go_on(store: LocalStore) -> bytes:
        assert await store.list_parts("a.zip", upload_id) == [first]
        rest = await store.upload_part("a.zip", upload_id, 2, Body(data[MIB:], offset=MIB))
        assert await store.list_parts("a.zip", upload_id) == [first, rest]
        await store.complete("a.zip", upload_id, [first, rest])
        return b"".join([chunk async for chunk in store.read("a.zip")])

    assert await reopened(folder, go_on) == data


async def test_a_crash_after_the_rename(local_store: LocalStore, folder: Path) -> None:
    """An upload whose object is in place, its folder not yet removed, completes."""
    upload_id = await local_store.begin("a.zip", META)
    part = await local_store.upload_part("a.zip", upload_id, 1, Body(b"data"))
    await local_store.complete("a.zip", upload_id, [part])
    left = folder / ".uploads" / upload_id
    left.mkdir()
    (left / "parts").touch()
    (left / "upload.json").write_text(json.dumps({"key": "a.zip"}))
    assert (await local_store.complete("a.zip", upload_id, [part])).size == 4
    assert not left.exists()


async def test_lost_bytes_are_found(local_store: LocalStore, folder: Path) -> None:
    """Data that is shorter than its journal says makes no object."""
    upload_id = await local_store.begin("a.zip", META)
    part = await local_store.upload_part("a.zip", upload_id, 1, Body(b"data"))
    os.truncate(folder / ".uploads" / upload_id / "data", 2)
    with pytest.raises(StorageCorrupt):
        await local_store.complete("a.zip", upload_id, [part])


async def test_parts_must_join(local_store: LocalStore) -> None:
    """Parts with a gap between them make no object."""
    upload_id = await local_store.begin("a.zip", META)
    parts = [
        await local_store.upload_part("a.zip", upload_id, 1, Body(b"data")),
        await local_store.upload_part("a.zip", upload_id, 2, Body(b"data", offset=5)),
    ]
    with pytest.raises(StorageCorrupt, match="Part 2"):
        await local_store.complete("a.zip", upload_id, parts)


async def test_an_upload_of_another_key(local_store: LocalStore) -> None:
    """An upload id counts for its own key alone."""
    upload_id = await local_store.begin("a.zip", META)
    with pytest.raises(UploadMissing):
        await local_store.list_parts("b.zip", upload_id)


# --- disks ---


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageUnavailable),
        (errno.EDQUOT, StorageUnavailable),
        (errno.EIO, StorageUnavailable),
        (errno.EACCES, StorageRefused),
        (errno.EROFS, StorageRefused),
    ],
)
async def test_disks_that_fail(
    local_store: LocalStore,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    expected: type[Exception],
) -> None:
    """What the disk says becomes a storage error, and no half file stays."""
    upload_id = await local_store.begin("b.zip", META)
    pwrite = os.pwrite

    def fail(fd: int, data: bytes, offset: int) -> int:
        if offset < 2:
            return pwrite(fd, bytes(data)[:1], offset)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(expected):
        await local_store.put("a.zip", Body(b"data"), META)
    with pytest.raises(expected):
        await local_store.upload_part("b.zip", upload_id, 1, Body(b"data"))
    monkeypatch.undo()
    assert await local_store.list_parts("b.zip", upload_id) == []
    await local_store.abort("b.zip", upload_id)
    assert files_in(folder) == []


async def test_a_journal_line_that_is_cut_off_acknowledges_nothing(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up in the middle of a line takes no part; what was stored before stays."""
    upload_id = await local_store.begin("a.zip", META)
    stored = await local_store.upload_part("a.zip", upload_id, 1, Body(b"first"))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        with pytest.raises(StorageUnavailable, match="full"):
            await local_store.upload_part("a.zip", upload_id, 2, Body(b"second", offset=5))
    assert await local_store.list_parts("a.zip", upload_id) == [stored]
    again = await local_store.upload_part("a.zip", upload_id, 2, Body(b"second", offset=5))
    assert (await local_store.complete("a.zip", upload_id, [stored, again])).size == 11


async def test_check_sees_a_full_disk(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without room for a part is not healthy."""
    monkeypatch.setattr("downloadd.objects.local._MIN_FREE", 2**62)
    with pytest.raises(StorageUnavailable, match="full"):
        await local_store.check()


async def test_check_sees_a_folder_that_went_away(local_store: LocalStore, folder: Path) -> None:
    """A folder that was unmounted or removed is not healthy."""
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(StorageUnavailable):
        await local_store.check()
    with pytest.raises(StorageUnavailable):
        await local_store.put("a.zip", Body(b"data"), META)


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    """A path that cannot be a folder is refused at the start."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageRefused):
        await reopened(tmp_path / "file", lambda store: store.check())


# --- links ---


def archive(key: str, file_name: str = "x.zip") -> Archive:
    return Archive(key=key, size=0, sha256="", file_name=file_name)


def parsed(url: str) -> dict[str, str]:
    split = urlsplit(url)
    assert split.path.startswith("/v1/files/")
    query = {name: values[0] for name, values in parse_qs(split.query, strict_parsing=True).items()}
    return {"key": unquote(split.path.removeprefix("/v1/files/")), **query}


async def followed(store: LocalStore, key: str, file_name: str = "x.zip") -> LocalFile:
    link = await store.sign(archive(key, file_name))
    return await store.resolve(**parsed(link.url))


@pytest.mark.parametrize("name", ["x.zip", 'Grüße & "日本" +%41\n?.zip', "a=b;c.zip"])
async def test_a_link_leads_to_the_file(local_store: LocalStore, folder: Path, name: str) -> None:
    """A link says which file, under which name, for how long; it can be resolved as it stands."""
    key = "jobs/a b+ü.zip"
    stored = await local_store.put(key, Body(b"data"), ObjectMeta(file_name="other.zip"))
    link = await local_store.sign(archive(key, name))
    assert link.url.startswith(f"{BASE_URL}/v1/files/jobs/")
    assert 3590 < link.expires_at - time.time() <= 3600
    file = await local_store.resolve(**parsed(link.url))
    assert file.path == folder / key
    assert (file.file_name, file.size, file.etag) == (name, 4, stored.etag)
    assert file.content_type == "application/zip"
    assert file.disposition.startswith("attachment; ")


@pytest.mark.parametrize(
    "change",
    [
        {"key": "b.zip"},
        {"name": "evil.exe"},
        {"expires": "99999999999"},
        {"expires": ""},
        {"signature": ""},
        {"signature": "ü"},
        {"key": "../../etc/passwd"},
    ],
    ids=str,
)
async def test_a_changed_link_is_invalid(local_store: LocalStore, change: dict[str, str]) -> None:
    """Whoever changes any part of a link has none."""
    await local_store.put("a.zip", Body(b"data"), META)
    await local_store.put("b.zip", Body(b"data"), META)
    link = parsed((await local_store.sign(archive("a.zip"))).url)
    with pytest.raises(LinkInvalid, match="not valid"):
        await local_store.resolve(**{**link, **change})


async def test_an_expired_link(local_store: LocalStore, folder: Path) -> None:
    """A link ends with its time."""
    await local_store.put("a.zip", Body(b"data"), META)
    async with open_local_store(folder, base_url=BASE_URL, secret=SECRET, presign_ttl=-1) as store:
        link = await store.sign(archive("a.zip"))
    with pytest.raises(LinkInvalid, match="expired"):
        await local_store.resolve(**parsed(link.url))


async def test_a_link_to_what_is_gone(local_store: LocalStore) -> None:
    """A good link to a removed object says that it is missing."""
    with pytest.raises(ObjectMissing):
        await followed(local_store, "a.zip")


async def test_another_secret(local_store: LocalStore, folder: Path) -> None:
    """Links of one secret mean nothing to another."""
    await local_store.put("a.zip", Body(b"data"), META)
    link = await local_store.sign(archive("a.zip"))
    async with open_local_store(folder, base_url=BASE_URL, secret=b"o" * 32) as store:
        with pytest.raises(LinkInvalid):
            await store.resolve(**parsed(link.url))


def test_the_secret_is_made_once(tmp_path: Path) -> None:
    """The secret is random, the owner's alone, and the same ever after."""
    path = tmp_path / "data" / "link.key"
    secret = load_secret(path)
    assert len(secret) == 32
    assert load_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["link.key"]
    assert load_secret(tmp_path / "other.key") != secret


def test_a_secret_that_is_none(tmp_path: Path) -> None:
    """A file that is too short, or a folder, is a wrong setting."""
    (tmp_path / "short").write_bytes(b"abc")
    for path in (tmp_path / "short", tmp_path):
        with pytest.raises(ConfigError):
            load_secret(path)


async def test_notes_without_an_object_are_found(local_store: LocalStore, folder: Path) -> None:
    """What a crash left of an object's making is listed by its key, and ``delete`` removes it."""
    (folder / ".meta" / "a.zip.json").write_text("{}")
    await local_store.put("b.zip", Body(b"data"), META)
    (folder / "c.zip").symlink_to(folder / "b.zip")
    assert {it.key async for it in local_store.find_objects("")} == {"a.zip", "b.zip"}
    await local_store.delete("a.zip")
    assert {it.key async for it in local_store.find_objects("")} == {"b.zip"}
