"""Parts that S3 makes itself, of objects that it has already (UploadPartCopy).

Sending the bytes of a stored source back to where they came from takes the
network and a temporary file's reading. A copy is believed only where its
CRC-32, or else its MD5, shows that its bytes are those that would be sent.
"""

from __future__ import annotations

from typing import Any

import structlog

from downloadd.errors import StorageError, StorageRefused, UploadMissing
from downloadd.objects.faults import translated
from downloadd.objects.integrity import listed_part, md5_of
from downloadd.ports import Part, PartBody, Twin

log = structlog.get_logger(__name__)


class PartCopier:
    """Copies within one bucket, until the server turns out not to be able to."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._able = True

    async def copy(
        self, key: str, upload_id: str, number: int, body: PartBody, twin: Twin
    ) -> Part | None:
        """As ``ObjectStore.copy_part``."""
        if not self._able:
            return None
        try:
            part = await self._copied(key, upload_id, number, body, twin)
            if await _is_same(part, body):
                return part
            self._give_up("a copy cannot be shown to have the same bytes")
        except UploadMissing:
            raise
        except StorageRefused as exc:
            self._give_up(exc.message)
        except StorageError as exc:  # it has changed, it is gone, or the server is busy
            log.info("storage.part_not_copied", reason=exc.message)
        return None

    def _give_up(self, reason: str) -> None:
        self._able = False
        log.warning("storage.copies_no_parts", reason=reason)

    async def _copied(
        self, key: str, upload_id: str, number: int, body: PartBody, twin: Twin
    ) -> Part:
        with translated("UploadPartCopy"):
            answer = await self._client.upload_part_copy(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                CopySource={"Bucket": self._bucket, "Key": twin.key},
                CopySourceIfMatch=f'"{twin.etag}"',
                CopySourceRange=f"bytes={twin.offset}-{twin.offset + body.size - 1}",
            )
        return listed_part({**answer["CopyPartResult"], "PartNumber": number, "Size": body.size})


async def _is_same(part: Part, body: PartBody) -> bool:
    if part.crc32 is not None:
        return part.crc32 == body.crc32
    # Where it is another kind of ETag it equals no MD5, and the bytes are sent.
    return part.etag == (await md5_of(body)).hex()
