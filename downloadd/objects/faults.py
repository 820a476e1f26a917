"""What S3 says is wrong, in downloadd's words: the one table of this adapter.

Source: "Error responses", Amazon S3 API Reference.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from html import unescape

import aiohttp
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from downloadd.errors import (
    ObjectChanged,
    ObjectMissing,
    StorageCorrupt,
    StorageError,
    StorageRefused,
    StorageUnavailable,
    UploadMissing,
)

#: An error document is well below a kilobyte; more is somebody else's page.
ERROR_BODY_LIMIT = 16 * 1024


class ChecksumUnsupported(StorageRefused):
    """The server does not know a header of the request: the checksum."""


#: By S3 error code; what is not here goes by its status.
_BY_CODE: dict[str, type[StorageError]] = {
    "NoSuchUpload": UploadMissing,
    "NoSuchKey": ObjectMissing,
    "BadDigest": StorageCorrupt,
    "XAmzContentChecksumMismatch": StorageCorrupt,
    "XAmzContentSHA256Mismatch": StorageCorrupt,
    "NotImplemented": ChecksumUnsupported,
    # 4xx that pass by themselves; CompleteMultipartUpload fails after a 200.
    "InternalError": StorageUnavailable,
    "ServiceUnavailable": StorageUnavailable,
    "RequestTimeout": StorageUnavailable,
    "IncompleteBody": StorageUnavailable,
    "SlowDown": StorageUnavailable,
    "Throttling": StorageUnavailable,
    "ThrottlingException": StorageUnavailable,
    "TooManyRequests": StorageUnavailable,
    "OperationAborted": StorageUnavailable,
    "TemporaryRedirect": StorageUnavailable,
    "PreconditionFailed": ObjectChanged,
    "InvalidRange": ObjectChanged,
}

#: What the operator can do about it.
_ADVICE: dict[str, str] = {
    "NoSuchBucket": "Create the bucket, or correct its name.",
    "InvalidAccessKeyId": "Check the access key id.",
    "SignatureDoesNotMatch": "Check the secret access key, the region and the endpoint.",
    "AccessDenied": "Allow these credentials to read and write the bucket.",
    "ExpiredToken": "Renew the credentials.",
    "InvalidToken": "Renew the credentials.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "AuthorizationHeaderMalformed": "Check the region.",
    "AuthorizationQueryParametersError": "Check the region.",
    "PermanentRedirect": "The bucket is in another region; check the region and the endpoint.",
    "EntityTooLarge": "The server does not take objects of this size.",
    "QuotaExceeded": "Make room in the bucket.",
}

#: Where there is no document: answers to HEAD.
_CODE_OF_STATUS = {301: "PermanentRedirect", 403: "AccessDenied"}

_TRANSIENT_STATUS = frozenset({307, 408, 425, 429})

#: By exception class, most specific first.
_BY_EXCEPTION: tuple[tuple[type[BaseException], type[StorageError]], ...] = (
    (aws.NoCredentialsError, StorageRefused),
    (aws.PartialCredentialsError, StorageRefused),
    (aws.SSLError, StorageRefused),
    (aws.HTTPClientError, StorageUnavailable),
    (aws.ConnectionError, StorageUnavailable),
    # The service that hands out credentials is away.
    (aws.CredentialRetrievalError, StorageUnavailable),
    (aws.MetadataRetrievalError, StorageUnavailable),
    (aws.IncompleteReadError, StorageUnavailable),
    (aws.BotoCoreError, StorageRefused),
    # A page of some proxy in place of S3's XML.
    (ResponseParserError, StorageUnavailable),
    (aiohttp.InvalidURL, StorageRefused),
    (aiohttp.ClientSSLError, StorageRefused),
    (aiohttp.ClientError, StorageUnavailable),
    (OSError, StorageUnavailable),
)


#: What ``from_exception`` takes.
TRANSLATED = (aws.ClientError, *(known for known, _ in _BY_EXCEPTION))


def from_status(operation: str, status: int, code: str = "", message: str = "") -> StorageError:
    """Return the error for an answer of S3; ``code`` and ``message`` from its document."""
    said = ": ".join(part for part in (code, message.rstrip(".")) if part) or "no reason given"
    advice = _ADVICE.get(code or _CODE_OF_STATUS.get(status, ""), "")
    sentence = f"S3 answered {operation} with {status}, {said}. {advice}".rstrip()
    return _class_of(status, code)(sentence)


def _class_of(status: int, code: str) -> type[StorageError]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status == 501:
        return ChecksumUnsupported
    if status in (412, 416):
        return ObjectChanged
    if status >= 500 or status in _TRANSIENT_STATUS:
        return StorageUnavailable
    if status == 404 and code != "NoSuchBucket":
        return ObjectMissing
    return StorageRefused


def from_document(operation: str, status: int, document: str) -> StorageError:
    """Return the error for an answer of S3 and the XML that came with it."""
    return from_status(operation, status, _element(document, "Code"), _element(document, "Message"))


def _element(document: str, name: str) -> str:
    """The text of the first such element; S3's error documents are flat."""
    found = re.search(rf"<{name}>([^<]*)</{name}>", document)
    return unescape(found[1]).strip() if found else ""


def from_exception(operation: str, exc: BaseException) -> StorageError:
    """Return the error for an exception of botocore, aiohttp or the sockets below them."""
    if isinstance(exc, aws.ClientError):
        error = exc.response.get("Error", {})
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(error.get("Code", ""))
        # Where there is no document (HEAD), botocore gives the status as code.
        code = "" if code.isdigit() else code
        return from_status(operation, status, code, str(error.get("Message", "")))
    for known, translated_class in _BY_EXCEPTION:
        if isinstance(exc, known):
            return translated_class(f"S3 failed at {operation}: {_reason(exc)}.")
    raise AssertionError(f"no translation for {type(exc).__name__}") from exc


def _reason(exc: BaseException) -> str:
    """Say what happened without the texts of aiohttp, which quote addresses."""
    if isinstance(exc, aws.BotoCoreError):
        return str(exc).rstrip(".")
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return (
            f"there is no host {exc.host!r}; check the endpoint, and force_path_style "
            "for servers that have no host name for each bucket"
        )
    if isinstance(exc, OSError) and exc.errno:
        return os.strerror(exc.errno)
    return type(exc).__name__


@contextlib.contextmanager
def translated(operation: str) -> Iterator[None]:
    """Turn what botocore and aiohttp raise into downloadd's errors."""
    try:
        yield
    except TRANSLATED as exc:
        raise from_exception(operation, exc) from exc
