"""The pure pieces of ``objects``: headers, the error table, checksums of checksums."""

from __future__ import annotations

import base64
import errno
import hashlib
import zlib
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import Any

import aiohttp
import pytest
from botocore import exceptions as aws
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from downloadd.errors import (
    ObjectMissing,
    StorageCorrupt,
    StorageRefused,
    StorageUnavailable,
    UploadMissing,
)
from downloadd.objects import faults
from downloadd.objects.headers import attachment
from downloadd.objects.integrity import compare_object, compare_parts, is_other_md5
from downloadd.objects.links import LinkSigner
from downloadd.objects.signing import object_url
from downloadd.objects.transfer import Reply
from downloadd.ports import Part

# --- Content-Disposition ---


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_survives_the_header(name: str) -> None:
    """The header is printable ASCII, and an independent parser reads the name from it."""
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    message = Message()
    message["Content-Disposition"] = header
    # The standard library prefers whichever comes last: leave it the real one.
    del message["Content-Disposition"]
    message["Content-Disposition"] = "attachment; " + header.rpartition("; ")[2]
    found = message.get_param("filename", header="content-disposition")
    assert collapse_rfc2231_value(found) == name  # type: ignore[arg-type]


def test_the_plain_name_is_harmless() -> None:
    """Old programs get an ASCII name without quotes, escapes or line ends."""
    assert attachment('a"b\\c%41\r\nü.zip').startswith('attachment; filename="a_b_c_41___.zip"; ')
    assert attachment("\ud800.zip").endswith("filename*=UTF-8''%3F.zip")


# --- the table of errors ---


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchUpload", UploadMissing),
        (404, "NoSuchKey", ObjectMissing),
        (404, "NoSuchBucket", StorageRefused),
        (404, "", ObjectMissing),
        (403, "AccessDenied", StorageRefused),
        (403, "InvalidAccessKeyId", StorageRefused),
        (403, "SignatureDoesNotMatch", StorageRefused),
        (403, "", StorageRefused),
        (301, "PermanentRedirect", StorageRefused),
        (400, "BadDigest", StorageCorrupt),
        (400, "EntityTooSmall", StorageRefused),
        (400, "RequestTimeout", StorageUnavailable),
        (409, "OperationAborted", StorageUnavailable),
        (429, "", StorageUnavailable),
        (500, "InternalError", StorageUnavailable),
        (501, "NotImplemented", faults.ChecksumUnsupported),
        (503, "SlowDown", StorageUnavailable),
        (599, "WhoKnows", StorageUnavailable),
        # CompleteMultipartUpload may fail after it has said 200.
        (200, "InternalError", StorageUnavailable),
    ],
)
def test_answers_of_s3(status: int, code: str, expected: type[Exception]) -> None:
    """Each answer is one error, named with its code, from a document or from botocore."""
    document = f"<Error><Code>{code}</Code><Message>It &lt;failed&gt;.</Message></Error>"
    error = faults.from_document("PutObject", status, document)
    assert type(error) is expected
    assert f"PutObject with {status}, " in error.message
    assert "It <failed>" in error.message
    answer: dict[str, Any] = {
        "Error": {"Code": code or str(status), "Message": "It <failed>."},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    same = faults.from_exception("PutObject", aws.ClientError(answer, "PutObject"))
    assert (type(same), same.message) == (type(error), error.message)


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (aws.NoCredentialsError(), StorageRefused),
        (aws.ParamValidationError(report="wrong"), StorageRefused),
        (aws.EndpointConnectionError(endpoint_url="http://s3"), StorageUnavailable),
        (aws.ReadTimeoutError(endpoint_url="http://s3"), StorageUnavailable),
        (aws.SSLError(endpoint_url="https://s3", error="expired"), StorageRefused),
        (aws.MetadataRetrievalError(error_msg="away"), StorageUnavailable),
        (aiohttp.ServerDisconnectedError(), StorageUnavailable),
        (aiohttp.ClientPayloadError(), StorageUnavailable),
        (aiohttp.InvalidURL("s3:/x"), StorageRefused),
        (TimeoutError(), StorageUnavailable),
        (ConnectionResetError(errno.ECONNRESET, "x"), StorageUnavailable),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exceptions_below(exception: Exception, expected: type[Exception]) -> None:
    """What botocore, aiohttp and sockets raise is one error each, chained."""
    with pytest.raises(expected, match="PutObject") as caught, faults.translated("PutObject"):
        raise exception
    assert caught.value.__cause__ is exception


def test_a_bug_is_not_translated() -> None:
    """An error in this program is no storage error."""
    with pytest.raises(ZeroDivisionError), faults.translated("PutObject"):
        raise ZeroDivisionError


# --- integrity ---


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


PARTS = [
    Part(number=number, size=3, etag=md5(data), crc32=zlib.crc32(data))
    for number, data in enumerate((b"abc", b"def"), start=1)
]
ETAG = md5(b"".join(bytes.fromhex(part.etag) for part in PARTS)) + "-2"
CRC = (
    base64.b64encode(
        zlib.crc32(
            b"".join(zlib.crc32(data).to_bytes(4, "big") for data in (b"abc", b"def"))
        ).to_bytes(4, "big")
    ).decode()
    + "-2"
)


def reply(**headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=200, headers=CIMultiDict(named))


@pytest.mark.parametrize(
    "answer",
    [
        reply(ETag=f'"{ETAG}"', x_amz_checksum_crc32=CRC),
        reply(ETag=f'"{ETAG}"'),
        # Servers whose ETags or checksums are made otherwise are not judged by them.
        reply(ETag='"opaque"'),
        reply(ETag=f'"{"0" * 32}"'),
        reply(ETag=f'"{"0" * 32}-2"', x_amz_server_side_encryption="aws:kms"),
        reply(ETag=f'"{ETAG}"', x_amz_checksum_crc32="AAAAAA=="),
    ],
)
def test_objects_that_may_be_right(answer: Reply) -> None:
    """An object whose checksums fit, or cannot be compared, passes."""
    compare_object("a.zip", answer, 6, PARTS)


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (reply(ETag=f'"{ETAG}"'), 5),
        (reply(ETag=f'"{"0" * 32}-2"'), 6),
        (reply(ETag=f'"{ETAG}"', x_amz_checksum_crc32="AAAAAA==-2"), 6),
    ],
)
def test_objects_that_are_wrong(answer: Reply, size: int) -> None:
    """Another size, composite ETag or composite CRC-32 is StorageCorrupt."""
    with pytest.raises(StorageCorrupt):
        compare_object("a.zip", answer, size, PARTS)


def test_parts_get_the_crc_of_either_side() -> None:
    """A part whose CRC-32 was forgotten has it again from the server's list."""
    forgotten = [part.evolve(crc32=None) for part in PARTS]
    assert [part.crc32 for part in compare_parts(forgotten, PARTS)] == [p.crc32 for p in PARTS]
    assert [part.crc32 for part in compare_parts(PARTS, forgotten)] == [p.crc32 for p in PARTS]
    with pytest.raises(StorageCorrupt, match="part 2"):
        compare_parts(PARTS, PARTS[:1])


def test_etags_of_whole_objects() -> None:
    """An ETag is compared with the MD5 only where it claims to be one."""
    digest = hashlib.md5(b"abc").digest()
    assert not is_other_md5(reply(ETag=f'"{md5(b"abc")}"'), digest)
    assert is_other_md5(reply(ETag=f'"{md5(b"other")}"'), digest)
    assert not is_other_md5(reply(ETag='"opaque"'), digest)
    kms = reply(ETag=f'"{md5(b"other")}"', x_amz_server_side_encryption="aws:kms:dsse")
    assert not is_other_md5(kms, digest)


# --- addresses ---


def test_object_addresses() -> None:
    """Keys and queries are percent-encoded as S3 signs them."""
    base = "https://s3/b"
    assert object_url(base) == base
    assert object_url(base, "a b/ü~+.zip") == f"{base}/a%20b/%C3%BC~%2B.zip"
    assert object_url(base, "k", {"uploadId": "a/b+=", "partNumber": "1"}) == (
        f"{base}/k?uploadId=a%2Fb%2B%3D&partNumber=1"
    )


@given(st.text(), st.text(), st.text(), st.text())
def test_signatures_differ(key: str, name: str, other_key: str, other_name: str) -> None:
    """No two pairs of key and name share a signature."""
    signer = LinkSigner(b"s" * 32)
    keys_are_plain = "\n" not in key + other_key
    if keys_are_plain and (key, name) != (other_key, other_name):
        assert signer.signature(key, "1", name) != signer.signature(other_key, "1", other_name)
