"""Buckets, credentials and addresses: who may use S3, and where it is."""

from __future__ import annotations

import aiohttp
import pytest

from downloadd.errors import StorageRefused
from downloadd.model import Archive
from downloadd.objects.s3 import S3Store, open_s3_store
from tests.gateway import Gateway
from tests.ports import free_port

from .conftest import s3_store_at
from .support import META, MIB, Body

PART = 5 * MIB


def archive(key: str, size: int = 0) -> Archive:
    return Archive(key=key, size=size, sha256="", file_name="x.zip")


async def test_a_missing_bucket_is_made_when_that_is_allowed(gateway: Gateway, bucket: str) -> None:
    """The bucket is created at the start, once; not without permission."""
    with pytest.raises(StorageRefused, match=f"no bucket '{bucket}'"):
        async with s3_store_at(gateway, bucket, create_bucket=False):
            pass
    for create in (True, True, False):
        async with s3_store_at(gateway, bucket, create_bucket=create) as store:
            await store.check()


async def test_a_bucket_that_went_away(s3_store: S3Store, gateway: Gateway, bucket: str) -> None:
    """Without its bucket the store is refused, and says so in its check."""
    await s3_store._client.delete_bucket(Bucket=bucket)
    with pytest.raises(StorageRefused, match="no bucket"):
        await s3_store.check()
    with pytest.raises(StorageRefused, match="NoSuchBucket"):
        await s3_store.put("a.zip", Body(b"data"), META)
    with pytest.raises(StorageRefused, match="NoSuchBucket"):
        await s3_store.begin("a.zip", META)


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
async def test_wrong_credentials(
    gateway: Gateway, bucket: str, s3_store: S3Store, wrong: str
) -> None:
    """Wrong credentials are refused at once, with advice and without the secret."""
    with pytest.raises(StorageRefused) as caught:
        async with s3_store_at(gateway, bucket, **{wrong: "hunter2-hunter2"}):
            pass
    assert "hunter2" not in caught.value.message
    assert "403" in caught.value.message


async def test_no_credentials_at_all(gateway: Gateway, bucket: str) -> None:
    """Without credentials anywhere the start is refused."""
    with pytest.raises(StorageRefused, match="credentials"):
        async with s3_store_at(gateway, bucket, access_key_id="", secret_access_key=""):
            pass


async def test_credentials_of_the_environment(
    gateway: Gateway, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without configured credentials those of the AWS environment are used."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", gateway.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", gateway.secret_access_key)
    async with s3_store_at(gateway, bucket, access_key_id="", secret_access_key="") as store:
        await store.put("a.zip", Body(b"data"), META)
        link = await store.sign(archive("a.zip"))
        async with aiohttp.ClientSession() as session, session.get(link.url) as answer:
            assert await answer.read() == b"data"


async def test_proxies_of_the_environment_are_not_used(
    gateway: Gateway, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY changes nothing."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    async with s3_store_at(gateway, bucket) as store:
        upload_id = await store.begin("a.zip", META)
        await store.abort("a.zip", upload_id)


async def test_addresses_of_amazon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an endpoint the bucket is a host of the region's S3; links go there."""

    async def there(self: S3Store, *, create: bool) -> None:
        """Nobody asks Amazon."""

    monkeypatch.setattr(S3Store, "ensure_bucket", there)
    for path_style, start in (
        (False, "https://my-bucket.s3.eu-central-1.amazonaws.com/a%20b.zip?"),
        (True, "https://s3.eu-central-1.amazonaws.com/my-bucket/a%20b.zip?"),
    ):
        async with open_s3_store(
            bucket="my-bucket",
            region="eu-central-1",
            access_key_id="id",
            secret_access_key="secret",
            force_path_style=path_style,
        ) as store:
            assert (await store.sign(archive("a b.zip"))).url.startswith(start)
