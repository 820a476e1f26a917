"""What proves that S3 has the bytes that were sent.

    * Every body's size and CRC-32 are compared with what was announced before
      its last chunk leaves this process.
    * Parts carry ``x-amz-checksum-crc32`` (AWS, MinIO from 2022 on, SeaweedFS,
      Ceph, R2). A server that knows it refuses a part that arrived otherwise,
      and the composite CRC of the object is compared after completing.
    * A server that does not know it stores what TCP, or better TLS, brought:
      computing MD5 here would cost 1.4 s of CPU for each GiB, as much as
      everything else together. What such a server has is compared by part
      sizes, object size and composite ETag, that is the MD5 of the parts' MD5s
      as the server computed them: a part lost, doubled or put in another
      place is found; a bit that flipped on the wire is not.
    * ``put`` sends ``Content-MD5``, which every server verifies, and compares
      the ETag; such bodies are small.

Parts are listed before completing, sizes and ETags compared one by one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from downloadd.errors import StorageCorrupt
from downloadd.objects.transfer import Reply
from downloadd.ports import Part, PartBody

CRC_HEADER = "x-amz-checksum-crc32"
_MD5 = re.compile(r"[0-9a-f]{32}")


async def md5_of(body: PartBody) -> bytes:
    """MD5 of a body: RFC 1864 wants it, nobody's trust hangs on it."""
    digest = hashlib.md5(usedforsecurity=False)
    loop = asyncio.get_running_loop()
    async for chunk in body.chunks():
        if len(chunk) <= 64 * 1024:
            digest.update(chunk)
        else:
            await loop.run_in_executor(None, digest.update, chunk)
    return digest.digest()


def base64_crc(crc32: int) -> str:
    """A CRC-32 as S3 writes it: base64 of four bytes, big-endian."""
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def is_other_md5(reply: Reply, md5: bytes) -> bool:
    """Whether an ETag claims to be the MD5 of what was sent, and is another one."""
    return _etags_are_md5(reply) and _is_md5(reply.etag) and reply.etag != md5.hex()


def _is_md5(etag: str) -> bool:
    return _MD5.fullmatch(etag) is not None


def _etags_are_md5(reply: Reply) -> bool:
    """Under KMS and customers' keys ETags only look like MD5 ("Object", S3 API Reference)."""
    kms = reply.headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return not kms and "x-amz-server-side-encryption-customer-algorithm" not in reply.headers


def listed_part(part: Mapping[str, Any]) -> Part:
    """Return what an element of ListParts says."""
    crc32 = part.get("ChecksumCRC32")
    return Part(
        number=part["PartNumber"],
        size=part["Size"],
        etag=part["ETag"].strip('"'),
        crc32=int.from_bytes(base64.b64decode(crc32), "big") if crc32 else None,
    )


def completed_part(part: Part) -> dict[str, Any]:
    """Return an element of CompleteMultipartUpload."""
    checksum = {"ChecksumCRC32": base64_crc(part.crc32)} if part.crc32 is not None else {}
    return {"PartNumber": part.number, "ETag": part.etag, **checksum}


def compare_parts(parts: Sequence[Part], listed: Sequence[Part]) -> list[Part]:
    """Return the parts, each with the CRC-32 that either side knows.

    ``StorageCorrupt`` where the server lacks one or has it otherwise.
    """
    there = {part.number: part for part in listed}
    compared = []
    for part in parts:
        found = there.get(part.number)
        if found != part:
            raise StorageCorrupt(f"S3 does not have part {part.number} as it was sent.")
        compared.append(part if part.crc32 is not None else part.evolve(crc32=found.crc32))
    return compared


def compare_object(key: str, reply: Reply, size: int, parts: Sequence[Part]) -> None:
    """Compare a completed object with its parts; ``StorageCorrupt`` where they differ."""
    expected = sum(part.size for part in parts)
    if size != expected:
        raise StorageCorrupt(f"{key!r} has {size} bytes in S3 and not {expected}.")
    if not (_same_composite_crc(reply, parts) and _same_composite_etag(reply, parts)):
        raise StorageCorrupt(f"{key!r} has another checksum in S3 than its parts.")


def _same_composite_crc(reply: Reply, parts: Sequence[Part]) -> bool:
    """Compare the CRC-32 of the parts' CRC-32s, where both sides have it.

    Source: "Checking object integrity", Amazon S3 User Guide.
    """
    found, count = reply.headers.get(CRC_HEADER, ""), f"-{len(parts)}"
    crcs = [part.crc32.to_bytes(4, "big") for part in parts if part.crc32 is not None]
    if not found.endswith(count) or len(crcs) != len(parts):
        return True
    return found == base64_crc(zlib.crc32(b"".join(crcs))) + count


def _same_composite_etag(reply: Reply, parts: Sequence[Part]) -> bool:
    """Compare the MD5 of the parts' MD5s, where the server builds ETags so."""
    found, _, count = reply.etag.partition("-")
    etags = [part.etag for part in parts]
    if not (
        _etags_are_md5(reply) and count == str(len(parts)) and all(map(_is_md5, [found, *etags]))
    ):
        return True
    joined = b"".join(map(bytes.fromhex, etags))
    return found == hashlib.md5(joined, usedforsecurity=False).hexdigest()
