"""What is no HTTP, or fails before and after the application, is answered like all else."""

from __future__ import annotations

import uuid

import pytest
from aiohttp import web

from tests.integration.web.conftest import Server
from tests.integration.web.test_surroundings import SECURITY
from tests.integration.web.wire import Answer, exchange

POST = b"POST /v1/download/initiate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
MALFORMED = {
    "a bad version": b"GET /SECRET HTTP/9.9\r\nHost: x\r\n\r\n",
    "a bad line": b"SECRET\r\n\r\n",
    "a control character in the address": (
        b"GET /v1/files/a?expires=1&code=SECRET\x01 HTTP/1.1\r\nHost: x\r\n\r\n"
    ),
    "an unknown method": b"SECRET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a lower-case method": b"get /SECRET HTTP/1.1\r\nHost: x\r\n\r\n",
    "a control character in a header": (
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: SECRET\x00SECRET\r\n\r\n"
    ),
    "a long header": b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"SECRET" * 1400 + b"\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}SECRET",
    "a length and chunks": (
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}SECRET"
    ),
    "a bad chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nSECRET\r\n",
    "no host": b"GET /SECRET HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: SECRET\r\nHost: x\r\n\r\n",
    "a port that is none": b"GET http://SECRET:99999/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"SECRET",
}


def assert_in_our_form(answer: Answer, status: int, code: str) -> None:
    said = answer.json()
    assert (answer.version, answer.status, said["code"]) == ("HTTP/1.1", status, code)
    assert set(said) == {"error", "code", "message", "requestId"}
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert uuid.UUID(said["requestId"]) == uuid.UUID(answer.headers["X-Request-ID"])
    assert {name: answer.headers.get(name) for name in SECURITY} == SECURITY
    assert answer.headers["Server"] == "downloadd"
    assert answer.headers["Connection"] == "close"
    assert b"SECRET" not in answer.body


@pytest.mark.parametrize("case", MALFORMED)
async def test_what_is_no_http_is_a_400(server: Server, case: str) -> None:
    """Bytes that make no request get one answer in our form, which does not repeat them."""
    assert_in_our_form(await exchange(server, MALFORMED[case]), 400, "bad_request")


async def test_a_long_header_is_told(server: Server) -> None:
    """Who sends too much, a browser with many cookies for one, learns what is too long."""
    answer = await exchange(server, MALFORMED["a long header"])
    assert "8,190" in answer.json()["message"]


async def test_a_body_that_breaks_is_a_400(server: Server) -> None:
    """A chunk that is none, found when the request is being handled, ends it with one answer."""
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert_in_our_form(await exchange(server, head, b"SECRET\r\n"), 400, "bad_request")


@pytest.mark.parametrize("path", ["/", "/nothing", "/v1/download/initiate"])
async def test_an_unknown_expectation_is_a_417(server: Server, path: str) -> None:
    """What a client expects of the server, and cannot get, is refused in our form."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nExpect: SECRET\r\n\r\n".encode()
    assert_in_our_form(await exchange(server, request), 417, "expectation_failed")


async def test_a_client_may_wait_for_100_continue(server: Server) -> None:
    """The one expectation that there is (RFC 9110 §10.1.1) is met before the body comes."""
    head = POST + b"Content-Length: 2\r\nExpect: 100-Continue\r\nConnection: close\r\n\r\n"
    answer = await exchange(server, head, b"{}")
    assert (answer.status, answer.headers) == (100, {})
    assert answer.body.startswith(b"HTTP/1.1 400 ")


async def test_a_failure_outside_of_the_middleware(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the routing itself is a generic 500 in our form, under the caller's id."""

    async def broken(_: web.Request) -> None:
        raise RuntimeError("SECRET")

    monkeypatch.setattr(server.app.router, "resolve", broken)
    known = str(uuid.uuid4())
    request = f"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: {known}\r\n\r\n".encode()
    answer = await exchange(server, request)
    assert_in_our_form(answer, 500, "internal_error")
    assert answer.json()["requestId"] == known
