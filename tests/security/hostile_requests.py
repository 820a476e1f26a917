"""Requests that mean no good: the bytes of each, and the statuses that may answer them.

Above each group: where it is from. ``{job}`` is the id of a job that is there.
A status of 0 stands for a connection that is closed without a word.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

#: Name, bytes, statuses.
REQUESTS: list[tuple[str, bytes, frozenset[int]]] = []

CLOSED = 0
_HOST = "Host: x\r\n"
_POST = f"POST /v1/download/initiate HTTP/1.1\r\n{_HOST}"
_JSON = "Content-Type: application/json\r\n"
_UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\n"


def raw(name: str, data: bytes | str, *statuses: int) -> None:
    sent = data.encode("latin-1") if isinstance(data, str) else data
    REQUESTS.append((name, sent, frozenset(statuses)))


def get(name: str, target: str, *statuses: int, headers: str = "", method: str = "GET") -> None:
    raw(name, f"{method} {target} HTTP/1.1\r\n{_HOST}{headers}Connection: close\r\n\r\n", *statuses)


def post(
    name: str,
    body: Any,
    *statuses: int,
    path: str = "/v1/download/initiate",
    headers: str = "Content-Type: application/json\r\n",
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode("utf-8", "surrogatepass")
    head = (
        f"POST {path} HTTP/1.1\r\n{_HOST}{headers}Content-Length: {len(content)}\r\n"
        "Connection: close\r\n\r\n"
    )
    raw(name, head.encode("latin-1") + content, *statuses)


# --- request lines (RFC 9112 §3; llhttp's and aiohttp's advisories, CVE-2024-52304) ---------
raw("line-empty", "\r\n\r\n", CLOSED, 400)
raw("line-noise", bytes(range(128, 256)) * 4 + b"\r\n\r\n", 400)
raw("line-tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400)
raw("line-http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400)
raw("line-http09", "GET /\r\n\r\n", 400, 405)
raw("line-version-9", f"GET / HTTP/9.9\r\n{_HOST}\r\n", 400)
raw("line-version-none", f"GET / HTTP\r\n{_HOST}\r\n", 400)
# RFC 9112 §3 lets a recipient take any run of blanks for one.
raw("line-two-blanks", f"GET  /  HTTP/1.1\r\n{_HOST}\r\n", 200, 400)
raw("line-tab", f"GET\t/\tHTTP/1.1\r\n{_HOST}\r\n", 400)
raw("line-nul", f"GET /\0 HTTP/1.1\r\n{_HOST}\r\n", 400)
raw("line-bare-cr", f"GET / HTTP/1.1\r{_HOST}\r\n\r\n", 400)
raw("line-method-long", "A" * 5000 + f" / HTTP/1.1\r\n{_HOST}\r\n", 400)
raw(
    "line-method-unknown",
    f"PROPFIND /v1/download/jobs HTTP/1.1\r\n{_HOST}Connection: close\r\n\r\n",
    405,
)
raw("line-method-small", f"get / HTTP/1.1\r\n{_HOST}Connection: close\r\n\r\n", 400, 405)
raw("line-trace", f"TRACE / HTTP/1.1\r\n{_HOST}Connection: close\r\n\r\n", 405)
raw(
    "line-connect",
    f"CONNECT 169.254.169.254:80 HTTP/1.1\r\n{_HOST}Connection: close\r\n\r\n",
    400,
    404,
    405,
)
raw(
    "line-absolute",
    f"GET http://169.254.169.254/latest HTTP/1.1\r\n{_HOST}Connection: close\r\n\r\n",
    400,
    404,
)
raw("line-asterisk", f"GET * HTTP/1.1\r\n{_HOST}Connection: close\r\n\r\n", 400, 404)
raw("line-no-slash", f"GET health HTTP/1.1\r\n{_HOST}Connection: close\r\n\r\n", 400, 404)
raw("line-splitting", f"GET / HTTP/1.1\r\nX: a\r\n b\r\n{_HOST}\r\n", 400)

# --- targets (path traversal, CVE-2024-23334 aiohttp; over-long; odd encodings) --------------
for _name, _target in {
    "dots": "/../../../../etc/passwd",
    "dots-encoded": "/%2e%2e/%2e%2e/etc/passwd",
    "docs-dots": "/docs/../../../etc/passwd",
    "docs-encoded": "/docs/..%2f..%2f..%2fetc%2fpasswd",
    "docs-backslash": "/docs/..\\..\\etc\\passwd",
    "docs-nul": "/docs/docs.js%00",
    "double-slash": "//v1/download/jobs",
    "dot-segment": "/v1/./download/./jobx",
    "fragment": "/nothing#x",
    "unknown": "/admin",
    "php": "/wp-login.php",
    "git": "/.git/config",
    "env": "/.env",
    "capitals": "/V1/download/jobs",
}.items():
    get(f"target-{_name}", _target, 404, 400)
get("target-long", "/" + "a" * 9000, 400)
get("target-long-query", "/v1/download/jobs?x=" + "a" * 9000, 400)
get("target-bytes", "/\xff\xfe", 400, 404)
get(
    "target-files-dots",
    "/v1/files/..%2f..%2fetc%2fpasswd?expires=9999999999&name=x&signature=y",
    403,
    404,
)
get("target-files-unsigned", "/v1/files/x.zip", 403, 404)
get("target-files-forged", "/v1/files/x.zip?expires=9999999999&name=x&signature=" + "A" * 43, 403)
get("target-files-arabic", "/v1/files/x.zip?expires=%D9%A1&name=x&signature=%F0%9F%98%80", 403)

# --- ids, queries --------------------------------------------------------------------------------
for _name, _id in {
    "no-uuid": "1",
    "version-1": "00000000-0000-1000-8000-000000000000",
    "underscores": "00000000_0000_4000_8000_000000000000",
    "long": "a" * 3000,
    "wildcard": "*",
    "redis": "x%3Afiles",
    "newline": "00000000-0000-4000-8000-000000000000%0a",
    "nul": "%00",
    "fullwidth": "%EF%BC%90" * 8,
    "injection": "'%20OR%201=1",
}.items():
    get(f"id-{_name}", f"/v1/download/status/{_id}", 400)
    get(f"id-cancel-{_name}", f"/v1/download/{_id}", 400, method="DELETE")
for _query in (
    "limit=0",
    "limit=-1",
    "limit=101",
    "limit=1e3",
    "limit=%D9%A1",
    "limit=1_0",
    "limit=99999999999999999999",
    "page=0",
    "page=1000001",
    "page=%00",
    "status=done",
    "status=queued,,x",
    "status=*",
    "case=upper",
):
    get(f"list-{_query}", f"/v1/download/jobs?{_query}", 400)
get("list-user", "/v1/download/jobs?user=somebody", 403)
get("files-flag", "/v1/download/status/{job}?files=maybe", 400)
get(
    "last-event-id",
    "/v1/download/stream/{job}",
    200,
    headers="Last-Event-ID: 99999999999999999999999-1\r\n",
)
get("last-event-id-words", "/v1/download/stream/{job}?lastEventId=$", 200)

# --- headers (RFC 9112 §5, §6.3; smuggling: CWE-444; CVE-2025-69224 and its like) ---------------
get("header-large", "/health/live", 400, headers="X: " + "a" * 9000 + "\r\n")
get("header-many", "/health/live", 400, headers="".join(f"X-{n}: 1\r\n" for n in range(500)))
get("header-no-colon", "/health/live", 400, headers="nonsense\r\n")
get("header-nul", "/health/live", 400, headers="X: a\0b\r\n")
get("header-blank-before-colon", "/health/live", 400, headers="X : a\r\n")
get("header-no-name", "/health/live", 400, headers=": a\r\n")
get("header-request-id", "/health/live", 200, headers="X-Request-ID: <script>\r\n")
get("header-traceparent", "/health/live", 200, headers="traceparent: 00-zz-zz-zz\r\n")
get(
    "header-forwarded",
    "/v1/download/jobs",
    200,
    headers="X-Forwarded-For: " + "1.1.1.1, " * 500 + "\r\n",
)
get(
    "header-accept-encoding",
    "/health/live",
    200,
    headers="Accept-Encoding: gzip;q=nan, ;;q=, *\r\n",
)
get("header-range", "/health/live", 200, headers="Range: bytes=0-0,1-1,2-2\r\n")
get("header-if-none-match", "/openapi.json", 200, headers='If-None-Match: "\r\n')
get("header-expect", "/health/live", 417, headers="Expect: the-unexpected\r\n")
get(
    "header-upgrade",
    "/v1/download/subscribe/{job}",
    400,
    headers=_UPGRADE,
)
get(
    "header-upgrade-old",
    "/ws",
    400,
    headers=f"{_UPGRADE}Sec-WebSocket-Version: 1\r\nSec-WebSocket-Key: x\r\n",
)
# aiohttp's base64 decoder raises for what is not ASCII.
for _name, _target in (("ws", "/ws"), ("job", "/v1/download/subscribe/{job}")):
    get(
        f"header-upgrade-key-{_name}",
        _target,
        400,
        headers=f"{_UPGRADE}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \xff\r\n",
    )
# The Kelvin sign is a "k" in lower case; white space that only Python strips.
for _name, _headers in (
    ("kelvin", "Connection: Upgrade\r\nUpgrade: websoc\xe2\x84\xaaet\r\n"),
    ("space", "Connection: \xc2\xa0upgrade\r\nUpgrade: websocket\r\n"),
):
    get(
        f"header-upgrade-{_name}",
        "/ws",
        400,
        headers=f"{_headers}Sec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    )
get(
    "header-h2c",
    "/health/live",
    200,
    headers="Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
)
raw(
    "length-and-chunked",
    f"{_POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    400,
)
raw(
    "length-two",
    f"{_POST}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    400,
)
raw(
    "length-negative",
    f"{_POST}Content-Length: -1\r\n\r\n",
    400,
)
raw(
    "length-plus",
    f"{_POST}Content-Length: +5\r\n\r\nhello",
    400,
)
raw(
    "length-huge",
    f"{_POST}{_JSON}Content-Length: 99999999999\r\n\r\n{{",
    413,
)
raw(
    "coding-unknown",
    f"{_POST}Transfer-Encoding: rot13\r\n\r\nhello",
    400,
)
raw(
    "coding-compressed",
    f"{_POST}{_JSON}Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
    400,
)
raw(
    "coding-in-two-lines",
    f"{_POST}{_JSON}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    "2\r\n{}\r\n0\r\n\r\n",
    400,
)
raw(
    "coding-obscured",
    f"{_POST}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    400,
)
raw(
    "coding-twice",
    f"{_POST}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    400,
)
raw(
    "chunk-size",
    f"{_POST}{_JSON}Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    400,
)
raw(
    "chunk-size-huge",
    f"{_POST}{_JSON}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n",
    400,
)
raw(
    "chunks-too-many",
    f"{_POST}{_JSON}"
    "Transfer-Encoding: chunked\r\n\r\n"
    + ("10000\r\n" + "x" * 0x10000 + "\r\n") * 80
    + "0\r\n\r\n",
    413,
)
raw(
    "two-requests-one-forged",
    f"GET /health/live HTTP/1.1\r\n{_HOST}Content-Length: 0\r\n\r\nGET /\0 HTTP/1.1\r\n\r\n",
    200,
    400,
)

# --- bodies (JSON: CVE-2020-10735 digits, CVE-2024-27454 orjson's depth; RFC 8259 §4, §8) -------
_URL = "https://example.com/a"
post("body-empty", b"", 400)
post("body-not-json", b"hello", 400)
post("body-list", [], 400)
post("body-null", None, 400)
post("body-number", 7, 400)
post("body-nothing", {}, 400)
post("body-large", b" " * (4 << 20) + b"{}", 413)
post("body-deep-lists", b'{"files":' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400)
post("body-deep-objects", b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400)
post("body-deep-a-little", b'{"options":{"metadata":' + b'{"a":' * 60 + b"1" + b"}" * 62, 400)
post("body-digits", b'{"file_id": ' + b"9" * 100_000 + b"}", 400)
post("body-exponent", b'{"file_id": 1e999999999}', 400)
post("body-nan", b'{"file_id": NaN}', 400)
post("body-twice", b'{"file_id": 70000, "file_id": 70001}', 400)
post("body-surrogate", b'{"source_urls": ["https://example.com/\\ud800"]}', 400)
post("body-bytes", b'{"source_urls": ["\xff\xfe"]}', 400)
post("body-bom", b"\xef\xbb\xbf{}", 400)
post("body-nul", b'{"source_urls": ["https://example.com/\\u0000"]}', 400)
post("body-trailing", b"{} {}", 400)
post("body-comment", b"{/* */}", 400)
post("body-form", b"a=b", 415, headers="Content-Type: application/x-www-form-urlencoded\r\n")
post(
    "body-multipart",
    b"--x\r\n\r\n--x--",
    415,
    headers="Content-Type: multipart/form-data; boundary=x\r\n",
)
post(
    "body-xml",
    b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
    415,
    headers="Content-Type: application/xml\r\n",
)
post("body-no-type", b"{}", 415, headers="")
post(
    "body-charset",
    "{}".encode("utf-16"),
    415,
    headers="Content-Type: application/json; charset=utf-16\r\n",
)
post(
    "body-gzip",
    gzip.compress(b" " * (64 << 20)),
    415,
    headers="Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
)
post("body-unknown-field", {"source_urls": [_URL], "admin": True}, 400)
post("body-prototype", {"source_urls": [_URL], "__proto__": {"admin": True}}, 400)
post("body-user", {"source_urls": [_URL], "user": "root"}, 400)
post("body-many-files", {"source_urls": [f"{_URL}{n}" for n in range(1001)]}, 400)
post("body-many-unknown", {f"field-{n}": n for n in range(100_000)}, 400)
post("body-no-files", {"files": []}, 400)
post("body-file-id-low", {"file_id": 9999}, 400)
post("body-file-id-high", {"file_id": 100_000_001}, 400)
post("body-file-id-bool", {"file_id": True}, 400)
post("body-file-id-text", {"file_id": "70000"}, 400)
post("body-file-id-float", {"file_id": 70000.5}, 400)
post("body-file-ids-twice", {"file_ids": [70000, 70000]}, 400)
post("body-file-ids-uneven", {"file_ids": [70000], "source_urls": [_URL, _URL]}, 400)
post("body-url-long", {"source_urls": ["https://example.com/" + "a" * 2030]}, 400)
post("body-name-long", {"files": [{"url": _URL, "name": "a" * 5000}]}, 400)
post("body-name-object", {"files": [{"url": _URL, "name": {"a": 1}}]}, 400)
post("body-sha256", {"files": [{"url": _URL, "sha256": "zz"}]}, 400)
post("body-size-negative", {"files": [{"url": _URL, "size": -1}]}, 400)
post("body-size-huge", {"files": [{"url": _URL, "size": 1 << 70}]}, 400)
post(
    "body-metadata-large", {"source_urls": [_URL], "options": {"metadata": {"a": "b" * 5000}}}, 400
)
post("body-metadata-list", {"source_urls": [_URL], "options": {"metadata": [1]}}, 400)
post("body-watermark", {"source_urls": [_URL], "options": {"watermark": True}}, 400)
post("body-format", {"source_urls": [_URL], "options": {"format": "tar"}}, 400)
post("body-priority", {"source_urls": [_URL], "options": {"priority": "highest"}}, 400)
post("body-export-wrong", {"source_urls": "x"}, 400, path="/v1/export")
post("body-start-list", {"source_urls": [_URL]}, 400, path="/v1/download/start")
post("body-check-wrong", {"file_id": None}, 400, path="/v1/download/check")

# --- headers for sources: none that frames the message, none that splits it (CWE-93, CWE-113) ----
for _name, _headers in {
    "crlf-value": {"X": "a\r\nHost: evil"},
    "lf-name": {"X\nY": "a"},
    "host": {"Host": "169.254.169.254"},
    "length": {"Content-Length": "0"},
    "coding": {"Transfer-Encoding": "chunked"},
    "upgrade": {"Upgrade": "h2c"},
    "range": {"range": "bytes=0-"},
    "proxy": {"Proxy-Authorization": "Basic x"},
    "blank-name": {"": "a"},
    "colon": {"a:b": "c"},
    "bytes": {"X": "\u00e9"},
    "nul": {"X": "a\0"},
    "twice": {"a": "1", "A": "2"},
    "many": {f"X-{n}": "1" for n in range(200)},
    "large": {"X": "a" * 20_000},
    "list": {"X": ["a"]},
}.items():
    post(f"source-header-{_name}", {"files": [{"url": _URL, "headers": _headers}]}, 400)

# --- Idempotency-Key (IETF draft-ietf-httpapi-idempotency-key-header) -----------
for _name, _key in {
    "empty": "",
    "long": "k" * 256,
    "twice": "a\r\nIdempotency-Key: b",
    "bytes": "\xff",
}.items():
    post(
        f"idempotency-{_name}",
        {"source_urls": [_URL]},
        400,
        headers=f"Content-Type: application/json\r\nIdempotency-Key: {_key}\r\n",
    )

# --- pages of others (WHATWG Fetch; CSRF by plain text, cross-site WebSockets: CWE-1385) ----
_EVIL = "Origin: https://evil.example\r\n"
post(
    "origin-plain-text",
    {"source_urls": [_URL]},
    415,
    path="/v1/export",
    headers=f"Content-Type: text/plain\r\n{_EVIL}",
)
get(
    "origin-websocket",
    "/ws",
    403,
    headers=f"{_EVIL}{_UPGRADE}Sec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
)
get(
    "origin-preflight",
    "/v1/download/initiate",
    204,
    method="OPTIONS",
    headers=f"{_EVIL}Access-Control-Request-Method: POST\r\n",
)
get("origin-null", "/v1/download/jobs", 200, headers="Origin: null\r\n")
