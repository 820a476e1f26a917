"""The two HTTP clients of ``s3.py``: botocore's for control calls, our own for bytes."""

from __future__ import annotations

from typing import Any

import aiohttp
from aiobotocore.config import AioConfig

from downloadd.objects.transfer import RETRIES

CONNECT_TIMEOUT = 5.0
#: Of each of the two clients; parts and small objects under way at once.
MAX_CONNECTIONS = 64


def client_config(force_path_style: bool, timeout: float) -> AioConfig:
    """Settings for control calls; ``timeout`` in seconds without an answer."""
    return AioConfig(
        signature_version="s3v4",
        # "auto" would send presigned requests to AWS's global endpoint.
        s3={"addressing_style": "path" if force_path_style else "virtual"},
        retries={"mode": "standard", "total_max_attempts": 1 + RETRIES},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=timeout,
        max_pool_connections=MAX_CONNECTIONS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        proxies={},
    )


async def bucket_url(client: Any, bucket: str) -> str:
    """Where botocore finds the bucket: its rules on path and host style, taken once."""
    url = await client.generate_presigned_url("head_bucket", Params={"Bucket": bucket})
    return str(url).partition("?")[0].rstrip("/")


def data_session(timeout: float) -> aiohttp.ClientSession:
    """Open the session of the data path; ``timeout`` in seconds without a byte."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
        timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT, sock_read=timeout, total=None),
        # Archives come as they are stored, and are large.
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
        read_bufsize=256 * 1024,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
