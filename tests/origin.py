"""An HTTP origin that serves known bytes and misbehaves on request.

``/file/{seed}/{size}`` is a file; the query says what goes wrong with it:

    kind=text|random        what it is made of
    delay=S                 seconds before the answer begins
    gate=1                  it does not begin before the test opens ``Origin.gate``
    rate=N                  bytes a second
    drop_after=N            close after N bytes of the body; reset=1: with a RST
    stall_after=N           send nothing more after N bytes, keep the connection
    status=503              answer that instead; retry_after=1 goes with it
    times=K                 the above go for the first K requests of this URL only
    lie=longer|shorter      Content-Length is 100 above or below the truth
    chunked=1               Transfer-Encoding: chunked, no length
    nolength=1              neither: the connection's end ends the body
    endless=1               never ends
    norange=1               ranges are ignored; ranges=none also says so
    etag=weak|none|change   change: another one each time
    modified=S              Last-Modified, seconds before the origin's start (an hour);
                            now: this moment; none: left out
    date=none               no Date
    wrongrange=1            a 206 that begins one byte later
    shortrange=N            a 206 of at most N bytes
    changed=1               a 206 with another ETag, If-Range ignored
    partial=1               a 206 where no range was asked for
    digest=good|bad|content|md5|legacy
    disposition=TEXT        Content-Disposition
    type=TEXT               Content-Type
    encoding=TEXT           Content-Encoding (the bytes stay as they are)
    redirect=N              N redirects to itself, then the file; code=307
    to=URL                  one redirect there; code=307
    hangup=1                close after the answer without saying so
    cookie=TEXT             Set-Cookie
    garbage=1               no status line
    headerbomb=N            a header of N bytes
    slow_head=S             S seconds between the bytes of the head
    head=405                HEAD is answered that, or: hang, close (no answer),
                            nolength, zero (200 with no, or a wrong, Content-Length)

Whatever follows the size in the path tells files of the same bytes apart.
``/counts/{text}``: requests and body bytes of each path that ends so, as JSON.

Run it by itself with ``python -m tests.origin [--port N]``: it prints its URL.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import hashlib
import json
import signal
import socket
import ssl
import struct
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from tests.content import BLOCK, blocks, content, sha256

__all__ = ["Origin", "Request", "blocks", "content", "sha256"]

_FAULTS = {"delay", "rate", "drop_after", "stall_after", "status"}
_ETERNITY = 1 << 62


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    connection: int
    reader: asyncio.StreamReader
    path: str = field(init=False)
    query: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        self.path = parts.path
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))

    def number(self, name: str, default: int = 0) -> int:
        return int(self.query.get(name, default))


class _Close(Exception):
    """The connection is to be closed after what was written."""


class Origin:
    """The origin, as an async context manager; ``url()`` makes addresses on it."""

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.host = host
        self.port = port
        self._tls = tls
        #: Requests by path, and body bytes handed to the kernel by path.
        self.hits: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.requests: deque[Request] = deque(maxlen=100_000)
        #: Connections ever made, and open now.
        self.connections = 0
        self.open_connections = 0
        #: What ``gate=1`` waits for.
        self.gate = asyncio.Event()
        self._faults: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, self.host, self.port, ssl=self._tls, limit=1 << 16, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        # Who has only just come is in no task yet.
        for _ in range(5):
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def url(
        self, seed: int = 1, size: int = 1000, *, host: str | None = None, **query: object
    ) -> str:
        """The address of a file, with its misbehaviour."""
        scheme = "https" if self._tls else "http"
        text = f"?{urlencode(query, quote_via=quote)}" if query else ""
        return f"{scheme}://{host or self.host}:{self.port}/file/{seed}/{size}{text}"

    # --- connections -----------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, _Close):
                await self._serve(reader, writer, self.connections)
        except asyncio.CancelledError:
            # The origin ends: what a client has not read, it will not get.
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            self.open_connections -= 1
            writer.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head.rstrip().split("\r\n")
            method, target, _ = line.split(" ", 2)
            headers = {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
            request = Request(method, target, headers, connection, reader)
            self.hits[request.path] += 1
            self.requests.append(request)
            await self._answer(request, writer)

    # --- answers ---------------------------------------------------------------

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        query = request.query
        if "times" in query:
            self._faults[request.target] += 1
            if self._faults[request.target] > request.number("times"):
                for name in _FAULTS & query.keys():
                    del query[name]
        await self._hold_back(query)
        if request.method == "HEAD" and "head" in query:
            return await self._refused_head(request, writer, query["head"])
        if "garbage" in query:
            writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            raise _Close
        if request.path.startswith("/counts/"):
            return await self._counts(request.path.removeprefix("/counts/"), writer)
        if not request.path.startswith("/file/"):
            return await self._plain(request, writer, 404)
        if "status" in query:
            extra = {"Retry-After": query["retry_after"]} if "retry_after" in query else {}
            return await self._plain(request, writer, request.number("status"), extra)
        if "to" in query or request.number("redirect"):
            return await self._redirect(request, writer)
        return await self._file(request, writer)

    async def _hold_back(self, query: Mapping[str, str]) -> None:
        await asyncio.sleep(float(query.get("delay", 0)))
        if "gate" in query:
            await self.gate.wait()

    async def _refused_head(self, request: Request, writer: asyncio.StreamWriter, how: str) -> None:
        if how == "hang":
            await asyncio.Event().wait()
        if how == "close":
            raise _Close
        if how.isdecimal():
            return await self._plain(request, writer, int(how))
        lengths = {"nolength": {}, "zero": {"Content-Length": "0"}}
        await _head(writer, 200, {"Content-Type": "image/png", **lengths[how]})
        return None

    async def _counts(self, ending: str, writer: asyncio.StreamWriter) -> None:
        paths = [path for path in self.hits if path.endswith(ending) and path.startswith("/file/")]
        body = json.dumps({path: [self.hits[path], self.sent[path]] for path in paths}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        await _head(writer, 200, headers)
        writer.write(body)
        await writer.drain()

    async def _plain(
        self,
        request: Request,
        writer: asyncio.StreamWriter,
        status: int,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body = b"" if status in (204, 304) else b"This is not the file.\n"
        length = {"Content-Length": str(len(body))}
        await _head(writer, status, {**length, **(headers or {})})
        if request.method != "HEAD":
            writer.write(body)
        await writer.drain()

    async def _redirect(self, request: Request, writer: asyncio.StreamWriter) -> None:
        target = request.query.pop("to", None)
        if target is None:
            rest = {**request.query, "redirect": str(request.number("redirect") - 1)}
            target = f"{request.path}?{urlencode(rest)}"
        location = {"Location": target} if target else {}
        await self._plain(request, writer, request.number("code", 302), location)

    async def _file(self, request: Request, writer: asyncio.StreamWriter) -> None:
        query = request.query
        seed, size = (int(part) for part in request.path.split("/")[2:4])
        kind = query.get("kind", "random")
        headers = self._headers(request, seed, size, kind)
        start, stop, status = _range(request, headers, size)
        if status == 416:
            return await self._plain(request, writer, 416, {"Content-Range": f"bytes */{size}"})
        if status == 206:
            shift = request.number("wrongrange")
            headers["Content-Range"] = f"bytes {start + shift}-{stop - 1}/{size}"
            if "changed" in query:
                headers["ETag"] = '"another"'
        if "endless" in query:
            stop = _ETERNITY
        chunked = "chunked" in query or "endless" in query
        delimited = chunked or "nolength" in query
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif not delimited:
            lie = {"longer": 100, "shorter": -100}.get(query.get("lie", ""), 0)
            headers["Content-Length"] = str(stop - start + lie)
        await _head(writer, status, headers, pause=float(query.get("slow_head", 0)))
        if request.method == "HEAD":
            return None
        await self._body(request, writer, (seed, start, stop, kind), chunked=chunked)
        if not {"nolength", "lie", "hangup"}.isdisjoint(query):
            raise _Close
        return None

    def _headers(self, request: Request, seed: int, size: int, kind: str) -> dict[str, str]:
        query = request.query
        etag = f'"{seed}-{size}-{kind}"'
        if query.get("etag") == "change":
            etag = f'"{self.hits[request.path]}"'
        headers = {
            "Date": formatdate(usegmt=True),
            "ETag": f"W/{etag}" if query.get("etag") == "weak" else etag,
            "Accept-Ranges": query.get("ranges", "bytes"),
            "Content-Type": query.get("type", "text/plain" if kind == "text" else "image/png"),
            **_digest_headers(query.get("digest", ""), seed, size, kind),
        }
        if query.get("etag") == "none":
            del headers["ETag"]
        if query.get("date") == "none":
            del headers["Date"]
        if query.get("modified") != "none":
            # The same for the origin's whole life, as a file's would be.
            if query.get("modified") == "now":
                modified = time.time()
            else:
                modified = _now_once() - request.number("modified", 3600)
            headers["Last-Modified"] = formatdate(modified, usegmt=True)
        for name in ("Content-Disposition", "Content-Encoding", "Set-Cookie"):
            if (short := name.partition("-")[2].lower()) in query:
                headers[name] = query[short]
        if "headerbomb" in query:
            headers["X-Bomb"] = "x" * request.number("headerbomb")
        return headers

    async def _body(
        self,
        request: Request,
        writer: asyncio.StreamWriter,
        part: tuple[int, int, int, str],
        *,
        chunked: bool,
    ) -> None:
        seed, start, stop, kind = part
        drop, stall = request.number("drop_after", -1), request.number("stall_after", -1)
        cut = min((limit for limit in (drop, stall) if limit >= 0), default=stop - start)
        rate = request.number("rate")
        for block in blocks(seed, start, min(stop, start + cut), kind):
            step = max(1, rate // 20) if rate else BLOCK
            for at in range(0, len(block), step):
                piece = block[at : at + step]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await writer.drain()
                self.sent[request.path] += len(piece)
                if rate:
                    await asyncio.sleep(len(piece) / rate)
        if stall >= 0:
            # Until the client goes.
            await request.reader.read()
            raise _Close
        if drop >= 0:
            await _flushed(writer)
            if "reset" in request.query:
                _linger_never(writer)
            raise _Close
        if chunked:
            writer.write(b"0\r\n\r\n")


async def _head(
    writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], pause: float = 0
) -> None:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
    if not pause:
        writer.write(head)
        return
    for at in range(len(head)):
        writer.write(head[at : at + 1])
        await writer.drain()
        await asyncio.sleep(pause)


def _range(request: Request, headers: Mapping[str, str], size: int) -> tuple[int, int, int]:
    """Return first byte, end, and status for the range asked for (one, with a start)."""
    asked = request.headers.get("range", "")
    query = request.query
    if not asked.startswith("bytes=") or "norange" in query or query.get("ranges") == "none":
        return 0, size, 206 if "partial" in query else 200
    condition = request.headers.get("if-range")
    current = (headers.get("ETag"), headers.get("Last-Modified"))
    if condition is not None and condition not in current and "changed" not in query:
        return 0, size, 200
    first, _, last = asked.removeprefix("bytes=").partition("-")
    start = int(first)
    if start >= size:
        return start, size, 416
    stop = min(size, int(last) + 1) if last else size
    if "shortrange" in query:
        stop = min(stop, start + request.number("shortrange"))
    return start, stop, 206


def _digest_headers(what: str, seed: int, size: int, kind: str) -> dict[str, str]:
    if not what:
        return {}
    data = content(seed, size, kind) if what != "bad" else b"something else"
    sha = base64.b64encode(hashlib.sha256(data).digest()).decode()
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    return {
        "good": {"Repr-Digest": f"sha-512=:AAAA:, sha-256=:{sha}:"},
        "bad": {"Repr-Digest": f"sha-256=:{sha}:"},
        "content": {"Content-Digest": f"sha-256=:{sha}:"},
        "legacy": {"Digest": f"SHA-256={sha},MD5={md5}"},
        "md5": {"Content-MD5": md5},
    }[what]


async def _flushed(writer: asyncio.StreamWriter) -> None:
    while writer.transport.get_write_buffer_size():
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)


def _linger_never(writer: asyncio.StreamWriter) -> None:
    """Have the close send a RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@functools.lru_cache(maxsize=1)
def _now_once() -> float:
    return time.time()


async def _main() -> None:
    parser = argparse.ArgumentParser(description="An HTTP origin that misbehaves on request.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Origin(host=options.host, port=options.port) as origin:
        print(f"http://{origin.host}:{origin.port}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_main())
