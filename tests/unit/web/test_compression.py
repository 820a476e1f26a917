"""Who takes gzip, and which answers are compressed at all."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from downloadd.web.middleware.compression import compression, takes_gzip

LARGE = b"0123456789" * 1000


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("br, deflate, gzip;q=0.8", True),
        ("gzip ; q=0.001", True),
        ("gzip;q=1.000,identity", True),
        ("*", True),
        ("*;q=0.1", True),
        ("identity;q=0, *", True),
        (" , gzip,", True),
        ("", False),
        ("br, deflate, zstd", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0.5, identity", False),
        ("gzip;q=2", False),
        ("gzip;q=-1", False),
        ("gzip;q=nan", False),
        ("gzip;level=9", False),
        ("gzipped", False),
        ("not gzip", False),
    ],
)
def test_accept_encoding(accepted: str, taken: bool) -> None:
    """Weights count (RFC 9110 §12.4.2), and what is malformed takes nothing."""
    assert takes_gzip(accepted) is taken


def answered(response: web.StreamResponse, accepted: str = "gzip") -> web.StreamResponse:
    """The answer as the middleware gives it on."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return response

    request = make_mocked_request("GET", "/", headers={"Accept-Encoding": accepted})
    return asyncio.run(compression(request, handler))


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/problem+json",
        "text/html",
        "text/plain",
        "application/javascript",
        "image/svg+xml",
    ],
)
def test_large_texts_are_compressed(content_type: str) -> None:
    """The body, its caches' key and its validator all tell of the coding."""
    response = answered(
        web.Response(body=LARGE, content_type=content_type, headers={"ETag": '"1"'})
    )
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    assert len(response.body) < len(LARGE) / 10
    assert gzip.decompress(response.body) == LARGE
    names = ("Content-Encoding", "Vary", "ETag")
    assert [response.headers[name] for name in names] == ["gzip", "Accept-Encoding", 'W/"1"']


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (LARGE[:1000], {"Content-Type": "application/json"}),
        (LARGE, {"Content-Type": "application/zip"}),
        (LARGE, {"Content-Type": "text/event-stream", "Cache-Control": "no-transform"}),
        (LARGE, {"Content-Type": "application/json", "Content-Encoding": "br"}),
        (LARGE, {"Content-Type": "application/json", "Cache-Control": "private, no-store"}),
    ],
    ids=["small", "archive", "no-transform", "coded", "no-store"],
)
def test_others_go_out_as_they_are(body: bytes, headers: dict[str, str]) -> None:
    """Small, coded, packed and secret answers, and those that nobody may change."""
    response = answered(web.Response(body=body, headers=headers))
    assert isinstance(response, web.Response)
    assert response.body == body
    assert response.headers.get("Content-Encoding") == headers.get("Content-Encoding")
    assert "Vary" not in response.headers


def test_who_takes_no_gzip_gets_none() -> None:
    """Caches are told all the same that others may get another answer, and the tag stays."""
    made = web.Response(body=LARGE, content_type="text/plain", headers={"ETag": '"1"'})
    response = answered(made, "gzip;q=0")
    assert isinstance(response, web.Response)
    assert response.body == LARGE
    assert response.headers["Vary"] == "Accept-Encoding"
    assert response.headers["ETag"] == '"1"'
    assert "Content-Encoding" not in response.headers


def test_streams_and_files_are_left_alone() -> None:
    """What is no whole answer is given on untouched."""
    stream = web.StreamResponse(headers={"Content-Type": "text/plain"})
    assert answered(stream) is stream
    assert "Vary" not in stream.headers
