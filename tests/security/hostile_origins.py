"""Origins that mean no good: what each does, how a file of theirs may end, and why it is here.

An origin is asked ``GET /<name>`` and does as its behaviour says. ``ends`` are
the error codes of files that it may lead to; ``COMPLETED`` is an archive that
holds ``body``.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

COMPLETED = "completed"
PROTOCOL = "source_protocol_error"
TRUNCATED = "source_truncated"
STALLED = "source_stalled"
UNREACHABLE = "source_unreachable"
REFUSED = "source_refused"
UNAVAILABLE = "source_unavailable"
BLOCKED = "address_blocked"
LARGE = "file_too_large"
REDIRECTS = "too_many_redirects"
CHANGED = "source_changed"
CHECKSUM = "checksum_mismatch"
TIMEOUT = "job_timeout"

#: What may be fetched at most, and what is more than that.
CAP = 1 << 20
_MANY = 64 * CAP


@dataclass(frozen=True)
class Talk:
    """One request and the wire that it came over."""

    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    headers: Mapping[str, str]
    #: How often this behaviour was asked before.
    times: int
    #: Where the origin listens.
    port: int

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def endlessly(self, piece: bytes, pause: float = 0.0) -> None:
        """Send the same until the other side has had enough."""
        sent = 0
        while sent < _MANY:
            await self.send(piece)
            sent += len(piece)
            await asyncio.sleep(pause)


Do = Callable[[Talk], Awaitable[None]]


@dataclass(frozen=True)
class Behaviour:
    name: str
    do: Do
    ends: frozenset[str]
    #: The bytes that the archive holds, where the file completes.
    body: bytes | None = None
    #: Whether the origin keeps the connection open behind its answer.
    stays: bool = False


BEHAVIOURS: dict[str, Behaviour] = {}


def _add(name: str, do: Do, *ends: str, body: bytes | None = None, stays: bool = False) -> None:
    assert name not in BEHAVIOURS, name
    assert (COMPLETED in ends) == (body is not None), name
    BEHAVIOURS[name] = Behaviour(name, do, frozenset(ends), body, stays)


def says(name: str, raw: bytes, *ends: str, body: bytes | None = None, stays: bool = False) -> None:
    """An origin that always says the same."""

    async def do(talk: Talk) -> None:
        await talk.send(raw)

    _add(name, do, *ends, body=body, stays=stays)


def does(
    name: str, *ends: str, body: bytes | None = None, stays: bool = False
) -> Callable[[Do], Do]:
    def register(do: Do) -> Do:
        _add(name, do, *ends, body=body, stays=stays)
        return do

    return register


def ok(*headers: str, body: bytes = b"hello", length: bool = True) -> bytes:
    lines = ["HTTP/1.1 200 OK", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


HELLO = b"hello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

# --- bodies that do not end (RFC 9112 §7.1, §8; Go's CVE-2023-39326, nginx lore) ---------


@does("endless-chunked", LARGE)
async def _(talk: Talk) -> None:
    await talk.send(CHUNKED)
    await talk.endlessly(b"10000\r\n" + bytes(0x10000) + b"\r\n")


@does("endless-small-chunks", LARGE, TIMEOUT)
async def _(talk: Talk) -> None:
    await talk.send(CHUNKED)
    await talk.endlessly(b"1\r\nx\r\n" * 4096)


@does("endless-to-close", LARGE)
async def _(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    await talk.endlessly(bytes(1 << 16))


@does("announces-too-much", LARGE)
async def _(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    await talk.endlessly(bytes(1 << 16))


@does("chunk-extensions", PROTOCOL, TRUNCATED, LARGE, STALLED, TIMEOUT)
async def _(talk: Talk) -> None:
    """Megabytes beside a byte (CVE-2023-39326)."""
    await talk.send(CHUNKED)
    await talk.endlessly(b"1;" + b"x" * 8000 + b"\r\nx\r\n")


@does("endless-chunk-extension", PROTOCOL, TRUNCATED, STALLED, TIMEOUT, LARGE)
async def _(talk: Talk) -> None:
    await talk.send(CHUNKED, b"1;")
    await talk.endlessly(b"x" * 8192)


@does("endless-chunk-size", PROTOCOL, TRUNCATED)
async def _(talk: Talk) -> None:
    await talk.send(CHUNKED)
    await talk.endlessly(b"0" * 8192)


@does("endless-trailers", PROTOCOL, TRUNCATED, STALLED, TIMEOUT, LARGE)
async def _(talk: Talk) -> None:
    await talk.send(CHUNKED, b"5\r\nhello\r\n0\r\n")
    for number in itertools.count():
        await talk.send(b"X-Trailer-%d: %s\r\n" % (number, b"x" * 1000))
        if number > 60_000:
            return


# --- chunks that are none (RFC 9112 §7.1; CVE-2021-21330's and llhttp's history) --------

says("chunk-size-huge", CHUNKED + b"ffffffffffffffffff\r\nhello", PROTOCOL, TRUNCATED, LARGE)
says("chunk-size-negative", CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", PROTOCOL, TRUNCATED)
says("chunk-size-0x", CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", PROTOCOL, TRUNCATED)
says("chunk-size-empty", CHUNKED + b"\r\nhello\r\n0\r\n\r\n", PROTOCOL, TRUNCATED)
says("chunk-size-words", CHUNKED + b"five\r\nhello\r\n0\r\n\r\n", PROTOCOL, TRUNCATED)
says("chunk-size-underscore", CHUNKED + b"0_5\r\nhello\r\n0\r\n\r\n", PROTOCOL, TRUNCATED)
says("chunk-without-end", CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n", PROTOCOL, TRUNCATED)
says("chunk-short", CHUNKED + b"9\r\nhello\r\n0\r\n\r\n", PROTOCOL, TRUNCATED)
says("chunks-cut-off", CHUNKED + b"5\r\nhello\r\n", TRUNCATED, PROTOCOL)

# --- lengths that lie (RFC 9112 §6.3; request and response smuggling, CWE-444) ----------

says("length-longer", ok(body=HELLO).replace(b": 5", b": 500"), TRUNCATED)
says("length-two", ok("Content-Length: 9"), PROTOCOL)
says(
    "length-list",
    ok(length=False, body=b"").replace(b"\r\n\r\n", b"\r\nContent-Length: 5, 6\r\n\r\nhello"),
    PROTOCOL,
)
for _name, _value in {
    "negative": "-1",
    "plus": "+5",
    "hex": "0x5",
    "float": "5.0",
    "words": "five",
    "huge": "9" * 40,
    "spaces": "5 5",
}.items():
    says(
        f"length-{_name}",
        f"HTTP/1.1 200 OK\r\nContent-Length: {_value}\r\n\r\nhello".encode(),
        PROTOCOL,
        TRUNCATED,
        LARGE,
    )
says(
    "length-and-chunked",
    ok("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    PROTOCOL,
    COMPLETED,
    body=HELLO,
)
says("coding-unknown", ok("Transfer-Encoding: rot13"), PROTOCOL, COMPLETED, body=HELLO)
says(
    "coding-twice",
    ok("Transfer-Encoding: chunked, chunked", length=False, body=b"5\r\nhello\r\n0\r\n\r\n"),
    PROTOCOL,
    TRUNCATED,
    COMPLETED,
    body=HELLO,
)
says(
    "coding-gzip-inside",
    ok("Transfer-Encoding: gzip, chunked", length=False, body=b"5\r\nhello\r\n0\r\n\r\n"),
    PROTOCOL,
    TRUNCATED,
    COMPLETED,
    body=HELLO,
)
says(
    "coding-obscured",
    ok("Transfer-Encoding : chunked", length=False, body=b"5\r\nhello\r\n0\r\n\r\n"),
    PROTOCOL,
    COMPLETED,
    body=HELLO,
)


@does("second-answer", COMPLETED, body=HELLO, stays=True)
async def _(talk: Talk) -> None:
    """What stands behind the body is no answer to the next request (response splitting)."""
    await talk.send(ok() + ok(body=b"forged"))


@does("longer-than-announced", COMPLETED, PROTOCOL, body=HELLO, stays=True)
async def _(talk: Talk) -> None:
    await talk.send(ok(), b"and more, and more")


# --- content codings: never decoded (zip bombs; aiohttp CVE-2025-69223, urllib3 CVE-2025-66471)

_BOMB = gzip.compress(bytes(_MANY))
says("bomb-gzip", ok("Content-Encoding: gzip", body=_BOMB), COMPLETED, body=_BOMB)
_DEFLATED = zlib.compress(bytes(_MANY))
says("bomb-deflate", ok("Content-Encoding: deflate", body=_DEFLATED), COMPLETED, body=_DEFLATED)
_NESTED = gzip.compress(gzip.compress(bytes(_MANY)))
says("bomb-nested", ok("Content-Encoding: gzip, gzip", body=_NESTED), COMPLETED, body=_NESTED)
says(
    "coded-brotli",
    ok("Content-Encoding: br", body=b"\x8b\x02\x80hello\x03"),
    COMPLETED,
    body=b"\x8b\x02\x80hello\x03",
)
says(
    "coded-by-nothing-known",
    ok("Content-Encoding: " + ", ".join(["gzip"] * 500)),
    COMPLETED,
    body=HELLO,
)
says("coded-and-not", ok("Content-Encoding: gzip"), COMPLETED, body=HELLO)

# --- heads (RFC 9112 §2.2, §5; CVE-2024-23829 aiohttp's lenient parser) ------------------

says("header-large", ok("X-Large: " + "x" * (1 << 20)), PROTOCOL)
says("headers-many", ok(*(f"X-{number}: x" for number in range(100_000))), PROTOCOL)


@does("head-endless", PROTOCOL)
async def _(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 200 OK\r\nX-Endless: ")
    await talk.endlessly(b"x" * 8192)


says("header-no-colon", ok("nonsense"), PROTOCOL)
says("header-nul", ok("X-Nul: a\0b"), PROTOCOL)
says("header-bare-cr", ok("X-Cr: a\rb"), PROTOCOL)
says("header-empty-name", ok(": x"), PROTOCOL)
says("header-folded", ok("X-Folded: a\r\n b"), PROTOCOL, COMPLETED, body=HELLO)
says("header-bytes", ok("X-Bytes: \xff\xfe\x80"), COMPLETED, PROTOCOL, body=HELLO)
says("lines-by-lf-alone", ok().replace(b"\r\n", b"\n"), COMPLETED, PROTOCOL, body=HELLO)

# --- status lines (RFC 9112 §4, RFC 9110 §15) ---------------------------------------------

for _name, _line in {
    "http09": b"<html>hello</html>",
    "version-2": b"HTTP/2.0 200 OK",
    "version-9": b"HTTP/9.9 200 OK",
    "version-none": b"HTTP/ 200 OK",
    "status-words": b"HTTP/1.1 abc OK",
    "status-1000": b"HTTP/1.1 1000 OK",
    "status-000": b"HTTP/1.1 000 OK",
    "status-99": b"HTTP/1.1 99 OK",
    "status-negative": b"HTTP/1.1 -200 OK",
    "icy": b"ICY 200 OK",
}.items():
    says(
        f"line-{_name}",
        _line + b"\r\nContent-Length: 5\r\n\r\nhello",
        PROTOCOL,
        TRUNCATED,
        UNREACHABLE,
        STALLED,
        COMPLETED,
        REFUSED,
        UNAVAILABLE,
        body=HELLO,
    )
says(
    "line-no-reason",
    b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
    COMPLETED,
    PROTOCOL,
    body=HELLO,
)
for _status, _ends in {
    101: (PROTOCOL,),
    201: (PROTOCOL,),
    204: (PROTOCOL,),
    205: (PROTOCOL,),
    206: (PROTOCOL,),
    300: (PROTOCOL,),
    304: (PROTOCOL,),
    305: (PROTOCOL,),
    306: (PROTOCOL,),
    401: (REFUSED,),
    402: (REFUSED,),
    407: (REFUSED,),
    416: (REFUSED,),
    418: (REFUSED,),
    451: (REFUSED,),
    499: (REFUSED,),
    500: (UNAVAILABLE,),
    599: (UNAVAILABLE,),
    999: (UNAVAILABLE, PROTOCOL),
}.items():
    says(
        f"status-{_status}",
        f"HTTP/1.1 {_status} X\r\nContent-Length: 5\r\nLocation: http://127.0.0.1:1/\r\n"
        "WWW-Authenticate: Basic\r\nProxy-Authenticate: Basic\r\n\r\nhello".encode(),
        *_ends,
    )
says(
    "retry-after-forever",
    b"HTTP/1.1 503 X\r\nRetry-After: 999999999\r\nContent-Length: 0\r\n\r\n",
    UNAVAILABLE,
    TIMEOUT,
)


_HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
says("few-1xx", _HINT * 5 + ok(), COMPLETED, body=HELLO)
says("many-1xx", _HINT * 6 + ok(), PROTOCOL)


@does("endless-1xx", PROTOCOL)
async def _(talk: Talk) -> None:
    """Interim answers for ever (RFC 9110 §15.2; Go's net/http reads five)."""
    await talk.endlessly(_HINT * 100)


# --- redirects (RFC 9110 §15.4; smokescreen, imgproxy, Companion: each was bypassed by one) -


def _redirect(name: str, location: str, *ends: str, status: int = 302) -> None:
    head = f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    says(f"to-{name}", head.encode("latin-1"), *ends)


for _name, _location in {
    "file": "file:///etc/passwd",
    "gopher": "gopher://127.0.0.1:6379/_INFO",
    "ftp": "ftp://127.0.0.1/",
    "data": "data:text/plain,hello",
    "javascript": "javascript:alert(1)",
    "loopback-port": "http://127.0.0.1:6379/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata-mapped": "http://[::ffff:169.254.169.254]/",
    "metadata-decimal": "http://2852039166/",
    "metadata-relative": "//169.254.169.254/",
    "decimal": "http://2130706433/",
    "octal": "http://0177.0.0.1/",
    "hex": "http://0x7f000001/",
    "private": "http://10.0.0.1/",
    "localhost": "http://localhost/",
    "zero": "http://0.0.0.0/",
    "ipv6": "http://[::1]/",
    "nat64": "http://[64:ff9b::7f00:1]/",
    "userinfo": "http://example.com@127.0.0.1:22/",
    "backslash": "http://example.com\\@127.0.0.1/",
    "no-url": "http://[",
    "long": "http://example.com/" + "x" * 15_000 + ":" * 2_000,
}.items():
    _redirect(_name, _location, BLOCKED, PROTOCOL)
# The port is closed; that is seen when the name has an address, which it has not here.
_redirect("port", "http://example.com:22/", BLOCKED, UNREACHABLE)
_redirect("nowhere", "", PROTOCOL)
_redirect("itself", "/to-itself", REDIRECTS)
_redirect("two-a", "/to-two-b", REDIRECTS)
_redirect("two-b", "/to-two-a", REDIRECTS, status=307)
says("to-without-location", b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", PROTOCOL)
says(
    "to-several",
    b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nLocation: http://10.0.0.2/\r\n"
    b"Content-Length: 0\r\n\r\n",
    BLOCKED,
    PROTOCOL,
)
says(
    "to-with-body",
    b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 99999999\r\n\r\n",
    BLOCKED,
)


@does("to-ever-further", REDIRECTS)
async def _(talk: Talk) -> None:
    target = f"/to-ever-further?{talk.times}"
    head = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
    await talk.send(head.encode())


# --- slowness, and ends without one (CWE-400; Slowloris, from the other side) --------------


@does("head-by-byte", STALLED, UNREACHABLE)
async def _(talk: Talk) -> None:
    for byte in ok("X-Slow: " + "x" * 1000):
        await talk.send(bytes([byte]))
        await asyncio.sleep(0.3)


@does("never-answers", STALLED)
async def _(talk: Talk) -> None:
    await asyncio.sleep(60)


@does("one-byte-then-nothing", STALLED)
async def _(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
    await asyncio.sleep(60)


@does("body-by-byte", TIMEOUT)
async def _(talk: Talk) -> None:
    """Never slow enough to stall: only the job's own time ends it."""
    await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    await talk.endlessly(b"x", pause=0.4)


@does("reset-after-head", UNREACHABLE, TRUNCATED)
async def _(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    talk.writer.transport.abort()


@does("reset-in-the-middle", UNREACHABLE, TRUNCATED)
async def _(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(50))
    talk.writer.transport.abort()


says("closes-without-a-word", b"", UNREACHABLE)
says("half-a-head", b"HTTP/1.1 200 OK\r\nContent-", UNREACHABLE, PROTOCOL, TRUNCATED)

# --- other protocols on the port (cross-protocol, ALPACA) -----------------------------------

for _name, _banner in {
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "smtp": b"220 mail.example ESMTP\r\n",
    "ftp": b"220 FTP ready\r\n",
    "redis": b"-ERR unknown command\r\n",
    "memcached": b"ERROR\r\n",
    "mysql": b"\x4a\x00\x00\x00\x0a8.0.36\x00",
    "http2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "a-request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": bytes(range(256)) * 16,
    "zeros": bytes(65_536),
    "lines": b"\r\n" * 40_000,
}.items():
    says(f"speaks-{_name}", _banner, PROTOCOL, UNREACHABLE, TRUNCATED, STALLED)

# --- what answers say of the file (RFC 6266, RFC 9530, RFC 1864) -----------------------------

for _name, _disposition in {
    "slip": 'attachment; filename="../../../../etc/passwd"',
    "absolute": "attachment; filename=/etc/passwd",
    "device": "attachment; filename=CON",
    "long": "attachment; filename=" + "x" * 12_000,
    "continued": "attachment; filename*9=a; filename*0*=b'c'%zz; filename*1=d",
    "charset": "attachment; filename*=unicode_escape''%5cud800%5cudfff",
    "idna": "attachment; filename*=idna''xn--a",
    "nothing": "attachment; filename=",
    "encoded-word": 'attachment; filename="=?utf-8?B?Li4vLi4vZXZpbA==?="',
    "parameters": "attachment" + "; a=b" * 2_000,
}.items():
    says(f"called-{_name}", ok(f"Content-Disposition: {_disposition}"), COMPLETED, body=HELLO)
says("digest-lies", ok("Content-MD5: AAAAAAAAAAAAAAAAAAAAAA=="), CHECKSUM)
says("digest-sha-lies", ok("Repr-Digest: sha-256=:" + "A" * 43 + "=:"), CHECKSUM)
says(
    "digest-nonsense",
    ok("Digest: sha-256=" + "!" * 9_000, "Repr-Digest: (((("),
    COMPLETED,
    body=HELLO,
)
says("type-nonsense", ok("Content-Type: " + "a/" * 5_000), COMPLETED, body=HELLO)
says(
    "dates-nonsense",
    ok("Last-Modified: Thu, 99 Foo 99999 99:99:99 XYZ", "Date: -1"),
    COMPLETED,
    body=HELLO,
)
says(
    "cookies",
    ok(*(f"Set-Cookie: {number}={'x' * 3000}; Domain=com" for number in range(20))),
    COMPLETED,
    body=HELLO,
)

# --- going on from where it broke off (RFC 9110 §13.1.5, §14, §15.3.7) -----------------------

_LONG = bytes(range(256)) * 40


def _resumed(
    name: str, answer: Callable[[int], bytes], *ends: str, body: bytes | None = None
) -> None:
    """The first answer breaks off after 5,000 bytes; the next is ``answer(offset)``."""

    async def do(talk: Talk) -> None:
        if talk.times == 0:
            head = f'HTTP/1.1 200 OK\r\nContent-Length: {len(_LONG)}\r\nETag: "a"\r\n\r\n'
            await talk.send(head.encode() + _LONG[:5000])
            return
        offset = int(talk.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        await talk.send(answer(offset))

    _add(name, do, *ends, body=body)


def _part(first: int, content: bytes, *, said: str | None = None, etag: str = "a") -> bytes:
    told = said or f"bytes {first}-{len(_LONG) - 1}/{len(_LONG)}"
    head = (
        f"HTTP/1.1 206 Partial Content\r\nContent-Range: {told}\r\n"
        f'Content-Length: {len(content)}\r\nETag: "{etag}"\r\n\r\n'
    )
    return head.encode() + content


_resumed("resume-well", lambda at: _part(at, _LONG[at:]), COMPLETED, body=_LONG)
_resumed("resume-other-range", lambda at: _part(at + 7, _LONG[at + 7 :]), CHANGED, TRUNCATED)
_resumed("resume-other-version", lambda at: _part(at, _LONG[at:], etag="b"), CHANGED, TRUNCATED)
_resumed("resume-no-range", lambda at: _part(at, _LONG[at:], said="nonsense"), CHANGED, TRUNCATED)
_resumed(
    "resume-in-pages", lambda at: _part(at, _LONG[at:], said="pages 1-2/3"), CHANGED, TRUNCATED
)
_resumed(
    "resume-backwards",
    lambda at: _part(at, _LONG[at:], said=f"bytes {at}-{at - 9}/{len(_LONG)}"),
    CHANGED,
    TRUNCATED,
)
_resumed(
    "resume-longer",
    lambda at: _part(at, _LONG[at:] + b"more"),
    PROTOCOL,
    CHANGED,
    TRUNCATED,
    COMPLETED,
    body=_LONG,
)
_resumed(
    "resume-refused",
    lambda _: b"HTTP/1.1 416 X\r\nContent-Range: bytes */5\r\nContent-Length: 0\r\n\r\n",
    CHANGED,
    TRUNCATED,
)
_resumed("resume-whole", lambda _: ok('ETag: "b"', body=HELLO), COMPLETED, body=HELLO)
