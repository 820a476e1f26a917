"""Lines that hold credentials, and lines that only look so."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.telemetry.scrub import scrub

AWS4 = "AWS4-HMAC-SHA256 Credential=SECRET/20260101/eu/s3/aws4_request, SignedHeaders=host"


@pytest.mark.parametrize(
    "line",
    [
        "https://h/x?X-Amz-Credential=SECRET%2F1&X-Amz-Signature=SECRET&n=1",
        "https://h/x?x-amz-security-token=SECRET",
        "https://h/x?Expires=1&Signature=SECRET&Key-Pair-Id=SECRET&Policy=SECRET",
        "https://h/x?X-Goog-Signature=SECRET",
        "/objects/x.zip?expires=1&signature=SECRET",
        "next=https%3A%2F%2Fh%2F%3FX-Amz-Signature%3DSECRET",
        "https://ada:SECRET@h/x",
        "https://SECRET@h/x",
        "redis://:SECRET@h:6379/0",
        "https://ada:p@SECRET@h/x",
        "Authorization: Bearer SECRET",
        "authorization=SECRET",
        "Proxy-Authorization: Basic SECRET",
        f"{{'Authorization': b'{AWS4}, Signature=SECRET'}}",
        '{\\"Authorization\\": \\"Bearer SECRET\\"}',
        "sent with bearer SECRET.e30.x",
        "Cookie: sid=SECRET; other=SECRET",
        "Set-Cookie: sid=SECRET; HttpOnly",
        "access_token=SECRET",
        "api_key=SECRET",
        'X-Api-Key: \'x\', "x-api-key": "SECRET"',
        "AWS_SECRET_ACCESS_KEY=SECRET",
        '"password": "SECRET, with spaces"',
        "('secret_access_key', 'SECRET')",
        "(b'Authorization', b'Bearer SECRET')",
        '{"Cookie": "sid=SECRET; other=SECRET", "x": null}',
        "webhook secret whsec_SECRET=",
        "\x1b[36mtoken\x1b[0m=\x1b[35mSECRET\x1b[0m",
    ],
)
def test_credentials_are_masked(line: str) -> None:
    """Signed URLs, userinfo, authorization, cookies and named secrets lose their values."""
    scrubbed = scrub(line)
    assert "SECRET" not in scrubbed.replace("AWS_SECRET_", "")
    assert "***" in scrubbed


@pytest.mark.parametrize(
    "line",
    [
        "GET /v1/download/status/{jobId} 200",
        "basic auth is off",
        "monkey=5 tokens left",
        "mail to ada@example.com",
        "https://h/x@2x.png?n=1&size=3",
        '{"Cookie": null, "token": "", "x": "token", "y": "z"}',
        "the key of the object is a/b.zip",
    ],
)
def test_the_rest_stays(line: str) -> None:
    """Lines without credentials are left alone."""
    assert scrub(line) == line


_WORDS = st.sampled_from(
    ["token", "Cookie: ", "authorization", "://", "@", "=", '"', "\\", "a", " "]
)


@given(
    st.dictionaries(
        st.sampled_from(["token", "url", "Cookie", "x"]),
        st.none() | st.text() | st.lists(_WORDS).map("".join),
    ),
)
def test_json_stays_json(fields: dict[str, str]) -> None:
    """Whatever a line holds, what was an object before is one afterwards."""
    assert json.loads(scrub(json.dumps(fields, ensure_ascii=False))).keys() == fields.keys()
