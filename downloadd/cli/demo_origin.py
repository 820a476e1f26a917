"""The origin of ``downloadd demo``: a small HTTP server whose files are hard to get.

Nothing is stored: a file's bytes are a function of its name and place.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import quote

from aiohttp import web

MIB = 1 << 20

_HOST = "127.0.0.1"
#: Bytes of the number with which every MiB begins, so that no two are alike.
_NUMBER = 16
_WORDS = ("order", "paid", "open", "2024", "2025", "Berlin", "Kyoto", "Quito", "EUR", "JPY", "USD")
#: Longer than deflate looks back (RFC 1951: 32 KiB), so that it shrinks as real text does.
_TEXT_PERIOD = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Specimen:
    """One file of the origin, and what is difficult about it."""

    path: str
    size: int
    #: What the origin does with it, for people.
    manner: str
    text: bool = False
    #: Whether the job is told the SHA-256.
    announced: bool = False
    #: Bytes a second; 0: as fast as it goes.
    rate: int = 0
    #: Places at which the connection is lost, each once.
    drops: tuple[int, ...] = ()
    #: How often it is answered 503 at first.
    refusals: int = 0
    redirects: int = 0
    #: Sent without a length.
    chunked: bool = False
    #: In ``Content-Disposition``.
    name: str | None = None

    @property
    def etag(self) -> str:
        return f'"{self.path}-{self.size}"'

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to ``stop``, at most a MiB at once."""
        block = memoryview(_block(self.path, self.text))
        while start < stop:
            number, at = divmod(start, MIB)
            end = min(MIB, at + stop - start)
            head = b"%0*d\n" % (_NUMBER - 1, number)
            yield head[at:end] + block[max(at, _NUMBER) : end]
            start += end - at

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for block in self.blocks(0, self.size):
            digest.update(block)
        return digest.hexdigest()


@cache
def _block(path: str, text: bool) -> bytes:
    if text:
        words = random.Random(path).choices(_WORDS, k=_TEXT_PERIOD)  # noqa: S311 (not a secret)
        return ",".join(words).encode()[:_TEXT_PERIOD] * (MIB // _TEXT_PERIOD)
    return hashlib.shake_256(path.encode()).digest(MIB)


SPECIMENS = (
    Specimen(path="photo.dat", size=3 * MIB, manner="fast", announced=True),
    Specimen(path="large.dat", size=96 * MIB, manner="large", announced=True),
    Specimen(path="slow.dat", size=2 * MIB, manner="slow: 1 MiB a second", rate=MIB),
    Specimen(
        path="flaky.dat",
        size=8 * MIB,
        manner="lost twice in mid-body",
        drops=(3 * MIB, 6 * MIB + 12345),
        announced=True,
    ),
    Specimen(path="busy.dat", size=MIB, manner="503 twice at first", refusals=2),
    Specimen(path="moved.dat", size=MIB, manner="moved: two redirects", redirects=2),
    Specimen(path="endless.dat", size=MIB + 1, manner="chunked, no length", chunked=True),
    Specimen(path="orders.csv", size=6 * MIB, manner="text: shrinks", text=True, announced=True),
    Specimen(
        path="4711", size=64 << 10, manner="name in a header", name="Übersicht 概要.txt", text=True
    ),
    Specimen(path="copy/photo.dat", size=512 << 10, manner="a name used twice"),
    Specimen(path="empty.txt", size=0, manner="empty"),
)


@dataclass
class Origin:
    """The running origin, and what it was asked for."""

    specimens: tuple[Specimen, ...] = SPECIMENS
    port: int = 0
    #: By path: bytes of the body sent, requests, and where those with a ``Range`` began.
    sent: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    resumed_at: dict[str, list[int]] = field(default_factory=dict)
    _dropped: set[tuple[str, int]] = field(default_factory=set)

    @property
    def authority(self) -> str:
        return f"{_HOST}:{self.port}"

    def url(self, specimen: Specimen) -> str:
        return f"http://{self.authority}/{specimen.path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve a file as its specimen says."""
        path = request.match_info["path"]
        specimen = next((one for one in self.specimens if one.path == path), None)
        if specimen is None:
            raise web.HTTPNotFound
        self.requests[path] += 1
        if self.requests[path] <= specimen.refusals:
            return web.Response(status=503, text="Too much to do.\n")
        hop = int(request.query.get("hop", 0))
        if hop < specimen.redirects:
            raise web.HTTPFound(f"{request.path}?hop={hop + 1}")
        return await self._file(request, specimen)

    async def _file(self, request: web.Request, specimen: Specimen) -> web.StreamResponse:
        start = _start(request, specimen)
        response = web.StreamResponse(status=206 if start else 200)
        response.content_type = "text/plain" if specimen.text else "application/octet-stream"
        response.headers["ETag"] = specimen.etag
        response.headers["Accept-Ranges"] = "bytes"
        if specimen.name is not None:
            name = quote(specimen.name)
            response.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
        if start:
            end, size = specimen.size - 1, specimen.size
            response.headers["Content-Range"] = f"bytes {start}-{end}/{size}"
            self.resumed_at.setdefault(specimen.path, []).append(start)
        if not specimen.chunked:
            response.content_length = specimen.size - start
        # A client that has gone is no news: the demonstration was interrupted.
        with suppress(ConnectionError):
            await response.prepare(request)
            await self._body(request, response, specimen, start)
        return response

    async def _body(
        self,
        request: web.Request,
        response: web.StreamResponse,
        specimen: Specimen,
        start: int,
    ) -> None:
        drop = self._next_drop(specimen, start)
        for block in specimen.blocks(start, specimen.size if drop is None else drop):
            step = specimen.rate // 10 or len(block)
            for at in range(0, len(block), step):
                piece = block[at : at + step]
                await response.write(piece)
                self.sent[specimen.path] += len(piece)
                if specimen.rate:
                    await asyncio.sleep(len(piece) / specimen.rate)
        if drop is not None and request.transport is not None:
            request.transport.close()

    def _next_drop(self, specimen: Specimen, start: int) -> int | None:
        for place in specimen.drops:
            if place > start and (specimen.path, place) not in self._dropped:
                self._dropped.add((specimen.path, place))
                return place
        return None


def _start(request: web.Request, specimen: Specimen) -> int:
    """Where the answer begins: 0 unless a range of this very file is asked for."""
    if request.headers.get("If-Range", specimen.etag) != specimen.etag:
        return 0
    return request.http_range.start or 0


@asynccontextmanager
async def running_origin() -> AsyncIterator[Origin]:
    """An origin on a free port of loopback."""
    origin = Origin()
    app = web.Application()
    app.router.add_get("/{path:.+}", origin.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    try:
        await runner.setup()
        site = web.TCPSite(runner, _HOST, 0)
        await site.start()
        origin.port = runner.addresses[0][1]
        yield origin
    finally:
        await runner.cleanup()
