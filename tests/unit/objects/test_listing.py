"""Listings of servers that are not at hand: pages as the client library gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from downloadd.errors import StorageRefused, StorageUnavailable
from downloadd.objects.listing import find_objects, find_uploads


class Client:
    """A client that gives these pages by prefix; an exception among them is raised."""

    def __init__(self, pages: dict[str, list[Any]]) -> None:
        self.pages = pages

    def get_paginator(self, method: str) -> Client:
        return self

    async def paginate(self, **asked: str) -> AsyncIterator[Any]:
        for page in self.pages.get(asked["Prefix"], []):
            if isinstance(page, Exception):
                raise page
            yield page


def upload(key: str) -> dict[str, str]:
    return {"Key": key, "UploadId": f"id of {key}"}


async def test_a_server_that_takes_the_prefix_for_a_key() -> None:
    """MinIO lists nothing for a prefix and everything without: ours are picked out."""
    client = Client({"": [{"Uploads": [upload("ns/1"), upload("other/1")]}, {}]})
    assert [it.key async for it in find_uploads(client, "bucket", "ns/")] == ["ns/1"]


async def test_others_are_not_looked_through_for_nothing() -> None:
    """Where the prefix finds something, the rest of the bucket is not asked for."""
    client = Client({"ns/": [{"Uploads": [upload("ns/1")]}], "": [AssertionError()]})
    assert [it.key async for it in find_uploads(client, "bucket", "ns/")] == ["ns/1"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EndpointConnectionError(endpoint_url="http://s3"), StorageUnavailable),
        (
            ClientError(
                {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}},
                "ListObjectsV2",
            ),
            StorageRefused,
        ),
    ],
)
async def test_errors_on_a_later_page(error: Exception, expected: type[Exception]) -> None:
    """What was found before is given; the error is downloadd's own."""
    client = Client({"ns/": [{"Contents": [{"Key": "ns/1"}]}, error]})
    found = find_objects(client, "bucket", "ns/")
    assert (await anext(found)).key == "ns/1"
    with pytest.raises(expected):
        await anext(found)
