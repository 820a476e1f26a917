"""The other application: an origin whose files a test can break or hold back, and its pages."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from aiohttp import web
from playwright.async_api import BrowserContext, Page, Route

from tests.tools import missing, require_tool

_CLIENTS = Path(__file__).parent / "seed_clients"
_NODE_PATH = Path("/usr/share/nodejs")
#: Bytes of each file.
SIZE = 300_000


def pdf(file_id: int) -> bytes:
    """The bytes of a file."""
    block = hashlib.sha256(str(file_id).encode()).digest()
    return b"%PDF-1.4\n" + (block * (SIZE // len(block)))


class Shop:
    """``/docs/{file_id}.pdf``, as an async context manager."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        #: Files that are not there.
        self.missing: set[int] = set()
        self._gates: dict[int, asyncio.Event] = {}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get(r"/docs/{file_id:\d+}.pdf", self._file)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/docs"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()
        await self._runner.cleanup()

    def hold(self, *file_ids: int) -> None:
        """Send no more than half of these until they are released."""
        self._gates |= {file_id: asyncio.Event() for file_id in file_ids}

    def release(self, *file_ids: int) -> None:
        """Go on with these, or with all."""
        for file_id in file_ids or tuple(self._gates):
            self._gates.pop(file_id).set()

    async def _file(self, request: web.Request) -> web.StreamResponse:
        file_id = int(request.match_info["file_id"])
        self.requests[file_id] += 1
        if file_id in self.missing:
            raise web.HTTPNotFound
        body = pdf(file_id)
        response = web.StreamResponse(headers={"Content-Type": "application/pdf"})
        response.content_length = len(body)
        await response.prepare(request)
        gate, half = self._gates.get(file_id), len(body) // 2
        await response.write(body[:half])
        if gate is not None:
            await gate.wait()
        with suppress(ConnectionError):  # who is gone wants no more
            await response.write(body[half:])
        return response


def bundle(app: str, folder: Path, amended: Mapping[str, tuple[str, str]] | None = None) -> str:
    """Compile one of ``seed_clients/apps`` for a browser, with React; return its text.

    ``amended`` gives files that the documents leave open: each is copied beside
    the app with one text replaced.
    """
    esbuild = require_tool("esbuild")
    if not (_NODE_PATH / "react-dom").is_dir():
        missing("React (Debian's node-react-dom)")
    sources = folder / "sources"
    shutil.copytree(_CLIENTS, sources)
    for path, (old, new) in (amended or {}).items():
        text = (_CLIENTS / path).read_text()
        assert old in text
        (sources / "apps" / Path(path).name).write_text(text.replace(old, new))
    done = subprocess.run(
        [
            *(esbuild, str(sources / "apps" / app), "--bundle", "--jsx=automatic"),
            '--define:process.env.NODE_ENV="production"',
            "--define:process.env.REACT_APP_API_URL=API_URL",
        ],
        env={"NODE_PATH": str(_NODE_PATH), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def open_page(context: BrowserContext, url: str, script: str, sources: str) -> Page:
    """Open a page of the server's own origin that holds nothing but a script."""

    async def page_html(route: Route) -> None:
        await route.fulfill(
            content_type="text/html",
            body=f'<!doctype html><div id="root"></div><script>'
            f'API_URL = location.origin; SOURCES = "{sources}"</script>'
            f'<script src="/app.js"></script>',
        )

    async def page_script(route: Route) -> None:
        await route.fulfill(content_type="text/javascript", body=script)

    page = await context.new_page()
    await page.route(f"{url}/app", page_html)
    await page.route(f"{url}/app.js", page_script)
    await page.goto(f"{url}/app")
    return page
