"""What a bucket holds under a prefix: objects, and uploads that were never finished."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from downloadd.objects.faults import translated
from downloadd.ports import FoundObject, FoundUpload


async def find_objects(client: Any, bucket: str, prefix: str) -> AsyncIterator[FoundObject]:
    """``ObjectStore.find_objects`` over ListObjectsV2."""
    async for page in _pages(client, "ListObjectsV2", "list_objects_v2", bucket, prefix):
        for found in page.get("Contents", ()):
            yield FoundObject(key=found["Key"], modified=_seconds(found.get("LastModified")))


async def find_uploads(client: Any, bucket: str, prefix: str) -> AsyncIterator[FoundUpload]:
    """``ObjectStore.find_uploads`` over ListMultipartUploads.

    Asked for a prefix, MinIO lists the uploads of the one key that equals it
    (minio/minio #20989, "working as intended"); asked for none, all. So where
    a prefix finds nothing, all are looked through.
    """
    found = False
    async for upload in _uploads(client, bucket, prefix):
        found = True
        yield upload
    if prefix and not found:
        async for upload in _uploads(client, bucket, ""):
            if upload.key.startswith(prefix):
                yield upload


async def _uploads(client: Any, bucket: str, prefix: str) -> AsyncIterator[FoundUpload]:
    pages = _pages(client, "ListMultipartUploads", "list_multipart_uploads", bucket, prefix)
    async for page in pages:
        for found in page.get("Uploads", ()):
            yield FoundUpload(
                key=found["Key"],
                upload_id=found["UploadId"],
                # SeaweedFS does not say (seaweedfs/seaweedfs #11301).
                begun=_seconds(found.get("Initiated")),
            )


async def _pages(
    client: Any, operation: str, method: str, bucket: str, prefix: str
) -> AsyncIterator[dict[str, Any]]:
    # A server that repeats a page ends in an error, not in a circle: botocore sees to that.
    pages = aiter(client.get_paginator(method).paginate(Bucket=bucket, Prefix=prefix))
    while True:
        with translated(operation):
            page = await anext(pages, None)
        if page is None:
            return
        yield page


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
