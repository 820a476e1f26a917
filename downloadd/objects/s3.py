"""Archives in S3, or in what speaks its protocol (MinIO, SeaweedFS, Ceph, R2).

Control calls (create, complete, list, abort, delete) go through aiobotocore;
bytes go through ``DataPath``: streamed, signed, the payload itself unsigned,
which takes a quarter of the CPU of aiobotocore's uploads. Proxies named in the
environment are used by neither.

What guards the bytes is told in ``integrity.py``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
from aiobotocore.session import get_session
from botocore.exceptions import NoCredentialsError

from downloadd.errors import (
    ObjectMissing,
    StorageCorrupt,
    StorageRefused,
    StorageUnavailable,
    UploadMissing,
)
from downloadd.model import Archive, Link
from downloadd.objects import listing, signing
from downloadd.objects.bodies import in_memory
from downloadd.objects.clients import bucket_url, client_config, data_session
from downloadd.objects.copying import PartCopier
from downloadd.objects.faults import ChecksumUnsupported, translated
from downloadd.objects.headers import CACHE_CONTROL, attachment
from downloadd.objects.integrity import (
    CRC_HEADER,
    base64_crc,
    compare_object,
    compare_parts,
    completed_part,
    is_other_md5,
    listed_part,
    md5_of,
)
from downloadd.objects.meter import Meter
from downloadd.objects.s3_body import open_s3
from downloadd.objects.transfer import DataPath, Reply, backoff
from downloadd.ports import Found, ObjectBody, ObjectMeta, Part, PartBody, Stored, Twin
from downloadd.telemetry.metrics import Metrics

#: "Multipart upload limits", Amazon S3 User Guide.
MIN_PART_SIZE = 5 * 1024 * 1024
#: Seconds that ``check`` waits for the answer.
CHECK_TIMEOUT = 3.0
#: Bodies up to here are read once and kept, larger ones are read twice by ``put``.
_KEPT_BODY = 1024 * 1024
_READ_CHUNK = 1024 * 1024


class S3Store:
    """``ports.ObjectStore`` over one bucket; made by ``open_s3_store``."""

    min_part_size = MIN_PART_SIZE
    shared = True

    def __init__(
        self,
        client: Any,
        data: DataPath,
        credentials: Any,
        *,
        bucket: str,
        region: str,
        public_url: str,
        presign_ttl: int,
        first_backoff: float,
    ) -> None:
        self._client = client
        self._data = data
        self._credentials = credentials
        self._bucket = bucket
        self._region = region
        self._public_url = public_url
        self._presign_ttl = presign_ttl
        self._first_backoff = first_backoff
        #: Until the server says that it does not know the header.
        self._send_crc32 = True
        self._copier = PartCopier(client, bucket)

    async def ensure_bucket(self, *, create: bool) -> None:
        """Make sure that the bucket is there; ``StorageRefused`` where it is not and cannot be.

        ``create``: make one that is missing.
        """
        try:
            await self._data.send("HeadBucket", "HEAD")
        except ObjectMissing:
            if not create:
                raise self._no_bucket() from None
            await self._create_bucket()

    async def _create_bucket(self) -> None:
        # us-east-1 is the one region that must not be named here.
        place: dict[str, Any] = {}
        if self._region != "us-east-1":
            place = {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        quicker = self._client.exceptions.BucketAlreadyOwnedByYou
        with translated("CreateBucket"), contextlib.suppress(quicker):
            await self._client.create_bucket(Bucket=self._bucket, **place)

    def _no_bucket(self) -> StorageRefused:
        return StorageRefused(
            f"There is no bucket {self._bucket!r}. Create it, or correct its name."
        )

    async def put(self, key: str, body: PartBody, meta: ObjectMeta) -> Stored:
        if body.size <= _KEPT_BODY:
            body = await in_memory(body)
        md5 = await md5_of(body)
        headers = {
            **_object_headers(meta),
            "Content-MD5": base64.b64encode(md5).decode(),
            **{f"x-amz-meta-{name.lower()}": value for name, value in meta.metadata.items()},
        }
        reply = await self._data.send("PutObject", "PUT", key, headers=headers, body=body)
        if is_other_md5(reply, md5):
            raise StorageCorrupt(f"S3 stored {key!r} with other bytes than were sent.")
        stored = await self.head(key)
        if stored is None or (stored.size, stored.etag) != (body.size, reply.etag):
            raise StorageCorrupt(f"S3 has {key!r} in another form than it was sent.")
        return stored

    async def begin(self, key: str, meta: ObjectMeta) -> str:
        try:
            return await self._create_upload(key, meta)
        except ChecksumUnsupported:
            if not self._send_crc32:
                raise
            self._send_crc32 = False
            return await self._create_upload(key, meta)

    async def _create_upload(self, key: str, meta: ObjectMeta) -> str:
        checksum = {"ChecksumAlgorithm": "CRC32"} if self._send_crc32 else {}
        with translated("CreateMultipartUpload"):
            answer = await self._client.create_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                ContentType=meta.content_type,
                ContentDisposition=attachment(meta.file_name),
                CacheControl=CACHE_CONTROL,
                Metadata=dict(meta.metadata),
                **checksum,
            )
        return str(answer["UploadId"])

    async def upload_part(self, key: str, upload_id: str, number: int, body: PartBody) -> Part:
        crc32 = base64_crc(body.crc32)
        reply = await self._data.send(
            "UploadPart",
            "PUT",
            key,
            query={"partNumber": str(number), "uploadId": upload_id},
            headers={CRC_HEADER: crc32} if self._send_crc32 else {},
            body=body,
        )
        echoed = reply.headers.get(CRC_HEADER)
        if echoed not in (None, crc32):
            raise StorageCorrupt(f"S3 stored part {number} of {key!r} with another CRC-32.")
        verified = body.crc32 if echoed else None
        return Part(number=number, size=body.size, etag=reply.etag, crc32=verified)

    async def copy_part(
        self, key: str, upload_id: str, number: int, body: PartBody, twin: Twin
    ) -> Part | None:
        return await self._copier.copy(key, upload_id, number, body, twin)

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        # By number: SeaweedFS lists a part that was sent again twice.
        parts: dict[int, Part] = {}
        pages = self._client.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=key, UploadId=upload_id
        )
        with translated("ListParts"):
            async for page in pages:
                parts |= {part["PartNumber"]: listed_part(part) for part in page.get("Parts", ())}
        return [parts[number] for number in sorted(parts)]

    async def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> Stored:
        parts = sorted(parts, key=lambda part: part.number)
        try:
            parts = compare_parts(parts, await self.list_parts(key, upload_id))
            with translated("CompleteMultipartUpload"):
                await self._client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": [completed_part(part) for part in parts]},
                )
        except UploadMissing:
            # It was completed before and the answer was lost, or it is gone.
            if await self.head(key) is None:
                raise
        return await self._verified_object(key, parts)

    async def _verified_object(self, key: str, parts: Sequence[Part]) -> Stored:
        """Look at a completed object and compare it with its parts."""
        try:
            reply = await self._data.send(
                "HeadObject", "HEAD", key, headers={"x-amz-checksum-mode": "ENABLED"}
            )
        except ObjectMissing as exc:
            raise StorageCorrupt(f"S3 completed {key!r} and does not have it.") from exc
        stored = _stored(reply)
        compare_object(key, reply, stored.size, parts)
        return stored

    async def abort(self, key: str, upload_id: str) -> None:
        with contextlib.suppress(UploadMissing), translated("AbortMultipartUpload"):
            await self._client.abort_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id
            )

    async def head(self, key: str) -> Stored | None:
        try:
            return _stored(await self._data.send("HeadObject", "HEAD", key))
        except ObjectMissing:
            return None

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """Yield an object's bytes; a broken connection is taken up where it broke.

        Each interruption may be tried ``RETRIES`` times. An object that is
        replaced meanwhile ends in ``StorageUnavailable``.
        """
        offset, etag, pauses = 0, "", backoff(self._first_backoff)
        while True:
            try:
                async with self._get(key, offset, etag) as response:
                    etag = Reply(status=response.status, headers=response.headers).etag
                    async for chunk in response.content.iter_chunked(_READ_CHUNK):
                        offset, pauses = offset + len(chunk), backoff(self._first_backoff)
                        yield chunk
            except StorageUnavailable:
                if (pause := next(pauses, None)) is None:
                    raise
                await asyncio.sleep(pause)
                self._data.meter.retried("GetObject")
            else:
                return

    @contextlib.asynccontextmanager
    async def _get(self, key: str, offset: int, etag: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Get an object from an offset on, as long as it is still the same."""
        resume = {"Range": f"bytes={offset}-", "If-Match": f'"{etag}"'} if offset else {}
        async with self._data.open("GetObject", "GET", key, headers=resume) as response:
            if offset and response.status != http.HTTPStatus.PARTIAL_CONTENT:
                raise StorageUnavailable(f"S3 does not go on with {key!r} where it broke off.")
            yield response

    def open(
        self, key: str, *, offset: int = 0
    ) -> contextlib.AbstractAsyncContextManager[ObjectBody]:
        return open_s3(self._data, key, offset)

    async def delete(self, key: str) -> None:
        with contextlib.suppress(ObjectMissing), translated("DeleteObject"):
            await self._client.delete_object(Bucket=self._bucket, Key=key)

    async def belongs_to(self, namespace: str) -> bool:
        return False  # a bucket may be anybody's; ours is under the prefix

    def find_uploads(self, prefix: str) -> AsyncIterator[Found]:
        return listing.find_uploads(self._client, self._bucket, prefix)

    def find_objects(self, prefix: str) -> AsyncIterator[Found]:
        return listing.find_objects(self._client, self._bucket, prefix)

    async def sign(self, archive: Archive) -> Link:
        """Return a presigned GET.

        Where the credentials are temporary, the link ends with them if that is sooner.
        """
        with translated("signing"):
            credentials = await self._credentials.get_frozen_credentials()
        now = time.time()
        url = signing.presign(
            credentials,
            self._region,
            signing.object_url(self._public_url, archive.key),
            self._presign_ttl,
        )
        return Link(url=url, expires_at=now + self._presign_ttl)

    async def check(self) -> None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await self._data.once("HeadBucket", "HEAD")
        except ObjectMissing:
            raise self._no_bucket() from None
        except TimeoutError as exc:
            raise StorageUnavailable(
                f"S3 did not answer HeadBucket in {CHECK_TIMEOUT:.0f} seconds."
            ) from exc


def _object_headers(meta: ObjectMeta) -> dict[str, str]:
    return {
        "Content-Type": meta.content_type,
        "Content-Disposition": attachment(meta.file_name),
        "Cache-Control": CACHE_CONTROL,
    }


def _stored(reply: Reply) -> Stored:
    prefix = "x-amz-meta-"
    metadata = {
        name.lower().removeprefix(prefix): value
        for name, value in reply.headers.items()
        if name.lower().startswith(prefix)
    }
    return Stored(size=int(reply.headers["Content-Length"]), etag=reply.etag, metadata=metadata)


@contextlib.asynccontextmanager
async def open_s3_store(
    *,
    bucket: str,
    endpoint: str = "",
    public_endpoint: str = "",
    region: str = "us-east-1",
    access_key_id: str = "",
    secret_access_key: str = "",
    force_path_style: bool = False,
    presign_ttl: int = 3600,
    create_bucket: bool = False,
    timeout: float = 60.0,
    first_backoff: float = 0.5,
    metrics: Metrics | None = None,
) -> AsyncIterator[S3Store]:
    """Open the bucket, making it first where ``create_bucket`` allows that.

    Empty: ``endpoint`` is AWS, ``public_endpoint`` is the endpoint. Buckets
    are host names unless ``force_path_style`` or the endpoint is an IP address.
    Without ``secret_access_key`` the credentials come from botocore's default
    chain (environment, profile, container, instance), refreshed as needed.
    ``presign_ttl`` in seconds, at most 7 days (SigV4). ``timeout``: seconds
    without any progress of a request; ``first_backoff``: seconds before the
    second try. ``metrics`` count the requests. Raises ``StorageRefused`` or
    ``StorageUnavailable``.
    """
    meter = Meter(metrics or Metrics())
    session = get_session()
    if secret_access_key:
        session.set_credentials(access_key_id, secret_access_key)
    config = client_config(force_path_style, timeout)

    def client(address: str) -> Any:
        return session.create_client(
            "s3", region_name=region, endpoint_url=address or None, config=config
        )

    async with contextlib.AsyncExitStack() as stack:
        with translated("opening"):
            credentials = await session.get_credentials()
            if credentials is None:
                raise NoCredentialsError
            control = await stack.enter_async_context(client(endpoint))
            meter.watch(control)
            internal_url = await bucket_url(control, bucket)
            public_url = internal_url
            if public_endpoint:
                async with client(public_endpoint) as public:
                    public_url = await bucket_url(public, bucket)
        data = DataPath(
            await stack.enter_async_context(data_session(timeout)),
            credentials.get_frozen_credentials,
            region=region,
            bucket_url=internal_url,
            stall=timeout,
            first_backoff=first_backoff,
            meter=meter,
        )
        store = S3Store(
            control,
            data,
            credentials,
            bucket=bucket,
            region=region,
            public_url=public_url,
            presign_ttl=presign_ttl,
            first_backoff=first_backoff,
        )
        await store.ensure_bucket(create=create_bucket)
        yield store
