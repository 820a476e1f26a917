"""AWS Signature Version 4: of our own requests in a header, of links in the query.

botocore's signers are called directly. ``generate_presigned_url`` also
resolves the endpoint, validates and serialises at every call, for about ten
times the 50 µs that a signature itself takes. Our own requests carry theirs
in ``Authorization``, so that their addresses may be quoted by any exception.
Source: "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API
Reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest

#: What S3 wants signed where it is sent, besides ``Host`` and ``x-amz-*``.
_SIGNED = frozenset({"content-type", "content-md5"})


class _StreamingAuth(S3SigV4Auth):  # type: ignore[misc]
    """Signs a request whose body is not known yet; checksums guard the body."""

    def payload(self, _request: AWSRequest) -> str:
        return str(UNSIGNED_PAYLOAD)


def authorize(
    credentials: Any,
    region: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
) -> dict[str, str]:
    """Return ``headers`` and those that let the request pass, its body unsigned.

    ``credentials`` are botocore's, frozen. Headers that proxies may touch are
    left out of the signature.
    """
    signed = {
        name: value
        for name, value in headers.items()
        if name.lower().startswith("x-amz-") or name.lower() in _SIGNED
    }
    request = AWSRequest(method=method, url=url, headers=signed)
    _StreamingAuth(credentials, "s3", region).add_auth(request)
    return {**headers, **dict(request.headers.items())}


def presign(credentials: Any, region: str, url: str, expires: int) -> str:
    """Return ``url`` as a link that anybody may GET for ``expires`` seconds."""
    request = AWSRequest(method="GET", url=url)
    S3SigV4QueryAuth(credentials, "s3", region, expires=expires).add_auth(request)
    return str(request.url)


def object_url(bucket_url: str, key: str = "", query: Mapping[str, str] | None = None) -> str:
    """Return the address of a key in the bucket at ``bucket_url``, percent-encoded as S3 does."""
    url = f"{bucket_url}/{quote(key, safe='/~')}" if key else bucket_url
    if not query:
        return url
    pairs = (f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
    return f"{url}?{'&'.join(pairs)}"
