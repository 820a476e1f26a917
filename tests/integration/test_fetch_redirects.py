"""Redirects, credentials and TLS."""

from __future__ import annotations

import base64
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from downloadd.errors import (
    AddressBlocked,
    SourceProtocolError,
    SourceUnreachable,
    TooManyRedirects,
)
from downloadd.ports import SourceReader
from tests.integration.fetching import MIB, failure, fetch, fixed, session
from tests.origin import Origin, content
from tests.tools import require_tool


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as server:
        yield server


@pytest.fixture
async def reader() -> AsyncIterator[SourceReader]:
    async with session() as source:
        yield source


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(reader: SourceReader, origin: Origin, code: int) -> None:
    """Every kind of redirect leads to a GET of its target, range included."""
    data, body = await fetch(reader, origin.url(6, 100, redirect=5, code=code), offset=10)
    assert data == content(6, 100, start=10)
    assert body.offset == 10
    assert len(origin.requests) == 6
    assert {request.method for request in origin.requests} == {"GET"}
    assert "referer" not in origin.requests[-1].headers


async def test_redirects_are_counted(reader: SourceReader, origin: Origin) -> None:
    """One redirect more than allowed ends it."""
    error = await failure(reader, origin.url(6, 100, redirect=6))
    assert isinstance(error, TooManyRedirects)
    assert not error.transient


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/file/6/50?sig=a%2bB%2F+&&", "/file/6/50?sig=a%2bB%2F+&&"),
        ("50?x", "/file/6/50?x"),
        ("../6/50#part", "/file/6/50"),
        ("?kind=random", "/file/6/60?kind=random"),
        ("/file/6/50?a b\u00fc", "/file/6/50?a%20b%C3%BC"),
        ("//127.0.0.1:{port}/file/6/50", "/file/6/50"),
        ("HTTP://127.0.0.1:{port}/file/6/50", "/file/6/50"),
    ],
)
async def test_targets_are_resolved_and_kept(
    reader: SourceReader, origin: Origin, location: str, target: str
) -> None:
    """Relative targets resolve as RFC 3986 says; signed queries keep their bytes."""
    await fetch(reader, origin.url(6, 60, to=location.format(port=origin.port)))
    assert origin.requests[-1].target == target


async def test_callers_headers_stay_with_their_origin(reader: SourceReader) -> None:
    """Same origin: all is sent again. Another one: nothing of the caller's, for good."""
    async with Origin() as first, Origin() as second:
        back = first.url(1, 10)
        url = first.url(1, 10, redirect=1).replace("http://", "http://user:pa%3Ass@")
        await fetch(reader, url, headers={"X-Key": "k"})
        basic = "Basic " + base64.b64encode(b"user:pa:ss").decode()
        assert [r.headers.get("authorization") for r in first.requests] == [basic] * 2
        assert [r.headers.get("x-key") for r in first.requests] == ["k"] * 2
        first.requests.clear()

        there = second.url(1, 10, to=back)
        url = first.url(1, 10, to=there).replace("http://", "http://user:pass@")
        await fetch(reader, url, headers={"X-Key": "k", "Cookie": "c"})
        for request in (second.requests[0], first.requests[1]):
            assert not {"authorization", "x-key", "cookie"} & set(request.headers)


async def test_credentials_in_a_redirect_are_dropped(reader: SourceReader, origin: Origin) -> None:
    """A redirect cannot make us log in anywhere."""
    there = origin.url(1, 10).replace("http://", "http://user:pass@")
    await fetch(reader, origin.url(1, 10, to=there))
    assert "authorization" not in origin.requests[-1].headers


async def test_a_given_authorization_wins(reader: SourceReader, origin: Origin) -> None:
    """Credentials in the URL do not contradict the caller's own header."""
    url = origin.url(1, 10).replace("http://", "http://user:pass@")
    await fetch(reader, url, headers={"authorization": "Bearer x"})
    assert origin.requests[-1].headers["authorization"] == "Bearer x"


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://10.0.0.1:22/",
        "http:\\\\127.0.0.1\\",
        "//10.0.0.1",
    ],
)
async def test_redirects_to_blocked_addresses(
    reader: SourceReader, origin: Origin, target: str
) -> None:
    """Each hop is checked before anything is dialled."""
    error = await failure(reader, origin.url(to=target))
    assert isinstance(error, AddressBlocked)
    assert len(origin.requests) == 1


@pytest.mark.parametrize("target", ["http://[::1", "//[x", "http://a℀b/"])
async def test_redirects_to_what_is_no_url(
    reader: SourceReader, origin: Origin, target: str
) -> None:
    """A ``Location`` that no parser takes is the source's fault, and nothing else's."""
    assert isinstance(await failure(reader, origin.url(to=target)), SourceProtocolError)


async def test_a_name_that_cannot_be_shown_is_told_as_it_is(reader: SourceReader) -> None:
    """Punycode that decodes to nothing is a name like others: it does not resolve."""
    error = await failure(reader, "http://xn--a.invalid/x")
    assert isinstance(error, SourceUnreachable)
    assert "xn--a.invalid" in error.message


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = [require_tool("openssl"), "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
    command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def _tls(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


async def test_https_and_no_way_down(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted certificate works, over kept connections too; a redirect to http does not."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    async with Origin(tls=_tls(certificate)) as secure, Origin() as plain, session() as reader:
        for _ in range(2):
            data, _ = await fetch(reader, secure.url(1, MIB, host="localhost"))
            assert data == content(1, MIB)
        assert secure.connections == 1
        url = secure.url(host="localhost", to=plain.url())
        assert isinstance(await failure(reader, url), SourceProtocolError)
        assert not plain.requests
        data, _ = await fetch(reader, plain.url(to=secure.url(1, 100, host="localhost")))
        assert data == content(1, 100)


async def test_untrusted_certificates_are_final(certificate: Path) -> None:
    """A certificate nobody trusts fails for good, and nothing is sent."""
    async with Origin(tls=_tls(certificate)) as secure, session() as reader:
        error = await failure(reader, secure.url(host="localhost"))
        assert isinstance(error, SourceProtocolError)
        assert "certificate" in error.message
        assert not secure.requests


async def test_https_where_http_is_spoken(reader: SourceReader) -> None:
    """A failed handshake is transient."""
    async with fixed(b"HTTP/1.1 400 X\r\n\r\n") as url:
        error = await failure(reader, url.replace("http://", "https://"))
    assert isinstance(error, SourceUnreachable)
