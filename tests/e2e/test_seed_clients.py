"""The client programs of the design documents, unchanged, in a browser, against the server.

Each goes from initiate to the downloaded archive, and through what its program
knows of cancel, failure, retry and lost connections.
"""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Download, Page, expect

from tests.e2e.browser import PATIENCE_MS, chromium
from tests.e2e.service import Service
from tests.e2e.shop import Shop, bundle, open_page, pdf
from tests.proxy import Proxy

expect.set_options(timeout=PATIENCE_MS)

#: Opens an app of ``seed_clients/apps`` on a fresh page.
OpenApp = Callable[..., AbstractAsyncContextManager[Page]]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with Shop() as shop:
        yield shop


@pytest.fixture
async def server(folder: Path, shop: Shop) -> AsyncIterator[Service]:
    """A server that knows where a file lies by its id, as the documents' clients expect."""
    template = f"{shop.url}/{{file_id}}.pdf"
    environ = {"DOWNLOADD_FETCH_SOURCE_URL_TEMPLATE": template}
    async with Service(folder / "data", environ) as service:
        yield service


@pytest.fixture
def app(server: Service, shop: Shop, tmp_path: Path) -> OpenApp:
    @asynccontextmanager
    async def open_app(
        name: str,
        *flags: str,
        url: str = server.url,
        amended: dict[str, tuple[str, str]] | None = None,
    ) -> AsyncIterator[Page]:
        script = bundle(name, tmp_path, amended)
        async with chromium(*flags) as context:
            yield await open_page(context, url, script, shop.url)

    return open_app


class Breakable(Proxy):
    """A proxy that lets no WebSocket through, as nginx unless told to; and cuts what it carries."""

    class _Pipe:
        async def forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while chunk := await reader.read(65536):
                writer.write(chunk.replace(b"Upgrade: websocket", b"X-Upgrade: none"))
                await writer.drain()

        async def back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()

    def connection(self) -> _Pipe:
        return self._Pipe()

    def cut(self) -> None:
        """Cut the connections that there are; new ones are carried."""
        for writer in self._tasks.values():
            writer.transport.abort()


@pytest.fixture
async def proxy(server: Service) -> AsyncIterator[Breakable]:
    async with Breakable(server.port) as proxy:
        yield proxy


async def downloaded(page: Page, click: str, *file_ids: int) -> None:
    """Click; the archive that comes holds these files."""
    async with page.expect_download() as coming:
        await page.click(click)
    await check_archive(await coming.value, *file_ids)


async def check_archive(download: Download, *file_ids: int) -> None:
    with zipfile.ZipFile(await download.path()) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert contents == {f"{file_id}.pdf": pdf(file_id) for file_id in file_ids}


async def only_job(server: Service) -> dict[str, Any]:
    """The one job that there is."""
    async with server.client.get("/v1/download/jobs") as response:
        listed = await response.json()
    assert listed["total"] == 1, listed
    job: dict[str, Any] = listed["jobs"][0]
    return job


# --- the canonical documents: initiate, subscribe, download ---------------------


async def test_journey(app: OpenApp, shop: Shop) -> None:
    """The user's journey as drawn: from the click to the archive of three documents."""
    shop.hold(70002)
    async with app("000.ts") as page:
        await page.click("#initiate")
        await expect(page.locator("#progress")).to_have_text("83")
        shop.release()
        await expect(page.locator("#status")).to_have_text("completed")
        await expect(page.locator("#told")).to_contain_text("complete:100")
        await downloaded(page, "#download", 70000, 70001, 70002)


async def test_journey_over_a_restart(app: OpenApp, shop: Shop, server: Service) -> None:
    """A browser's EventSource goes on where it was when the server was killed meanwhile."""
    shop.hold(70002)
    async with app("000.ts") as page:
        await page.click("#initiate")
        await expect(page.locator("#progress")).to_have_text("83")
        await server.kill()
        await expect(page.locator("#broken")).not_to_have_text("0")
        shop.release()
        await server.start()
        await expect(page.locator("#status")).to_have_text("completed")
        told = await page.locator("#told").text_content() or ""
        assert told.count("status:") == 1, "the stream was resumed, not begun anew"
        await downloaded(page, "#download", 70000, 70001, 70002)


async def test_journey_cancelled_and_retried(app: OpenApp, shop: Shop, server: Service) -> None:
    """Cancel ends the job at once; retry takes it up again."""
    shop.hold(70001)
    async with app("000.ts") as page:
        await page.click("#initiate")
        await expect(page.locator("#status")).to_have_text("processing")
        await page.click("#cancel")
        await expect(page.locator("#status")).to_have_text("cancelled")
        shop.release()
        await page.click("#retry")
        await expect(page.locator("#status")).to_have_text("completed")
        await downloaded(page, "#download", 70000, 70001, 70002)
        await only_job(server)


async def test_journey_failed_and_retried(app: OpenApp, shop: Shop) -> None:
    """A file that is not there fails the job and is named; when it is there, retry succeeds."""
    shop.missing.add(70001)
    async with app("000.ts") as page:
        await page.click("#initiate")
        await expect(page.locator("#status")).to_have_text("failed")
        await expect(page.locator("#error")).to_contain_text("70001")
        shop.missing.clear()
        await page.click("#retry")
        await expect(page.locator("#status")).to_have_text("completed")
        await downloaded(page, "#download", 70000, 70001, 70002)


# --- 001: /v1/export, SSE with a fall-back to polling ----------------------------


async def test_export(app: OpenApp, shop: Shop) -> None:
    """The export hook follows its events to "completed" and links the archive."""
    shop.hold(70001)
    async with app("001.tsx") as page:
        await page.click("text=Start Download")
        await expect(page.locator(".status-badge")).to_have_text("PROCESSING")
        await expect(page.locator(".progress-text")).to_have_text("75%")
        shop.release()
        await expect(page.locator(".status-badge")).to_have_text("COMPLETED")
        await expect(page.locator(".progress-text")).to_have_text("100%")
        await downloaded(page, ".download-button", 70000, 70001)


async def test_export_failed_and_retried(app: OpenApp, shop: Shop) -> None:
    """The hook's "failed" event brings the error; its retry makes a job of one file."""
    shop.missing.add(70000)
    async with app("001.tsx") as page:
        await page.click("text=Start Download")
        await expect(page.locator(".status-badge")).to_have_text("FAILED")
        await expect(page.locator(".error-message")).to_contain_text("Error: ")
        await expect(page.locator(".error-message")).to_contain_text("70000")
        shop.missing.clear()
        await page.click("text=Retry")
        await expect(page.locator(".status-badge")).to_have_text("COMPLETED")
        await downloaded(page, ".download-button", 70000)


async def test_export_cancelled(app: OpenApp, shop: Shop, server: Service) -> None:
    """Its cancel button ends the job.

    It forgets the job then, unless its poll, which the stream's end begins, is answered later.
    """
    shop.hold(70001)
    async with app("001.tsx") as page:
        await page.click("text=Start Download")
        await expect(page.locator(".status-badge")).to_have_text("PROCESSING")
        await page.click("text=Cancel")
        forgotten = page.locator("text=Start Download")
        polled = page.locator(".status-badge", has_text="CANCELLED")
        await expect(forgotten.or_(polled)).to_be_visible()
        assert (await only_job(server))["status"] == "cancelled"


async def test_export_loses_its_stream(app: OpenApp, shop: Shop, proxy: Breakable) -> None:
    """When its stream breaks the hook polls, to the same end."""
    shop.hold(70001)
    async with app("001.tsx", url=proxy.url) as page:
        await page.click("text=Start Download")
        await expect(page.locator(".progress-text")).to_have_text("75%")
        async with page.expect_response("**/v1/download/status/**"):
            proxy.cut()
        shop.release()
        await expect(page.locator(".status-badge")).to_have_text("COMPLETED")
        await downloaded(page, ".download-button", 70000, 70001)


async def test_export_manager(app: OpenApp, server: Service) -> None:
    """The manager's several exports at once, posted without a Content-Type, become jobs."""
    class_, exported = "class DownloadManager", "export class DownloadManager"
    amended = {"001/utils/downloadManager.ts": (class_, exported)}
    async with app("manager.ts", amended=amended) as page:
        jobs = await page.evaluate("manager.initiateMultiple([[70000, 70001], [70002]])")
        assert [job["totalFiles"] for job in jobs] == [2, 1]
        for job in jobs:
            assert (await server.ended(job["jobId"]))["status"] == "completed"


# --- 002: one file, snake_case, polling; or a socket for all jobs ------------------


async def test_polling(app: OpenApp, shop: Shop) -> None:
    """The polling hook shows queue or progress, then the link."""
    shop.hold(70000)
    async with app("002.tsx") as page:
        await page.click("text=Download File")
        await expect(page.locator(".status")).to_contain_text("Processing... 50%")
        shop.release()
        await expect(page.locator(".download-link")).to_be_visible()
        await downloaded(page, ".download-link", 70000)


async def test_polling_failed_and_retried(app: OpenApp, shop: Shop) -> None:
    """A failure is told with its reason; the same button then makes another job."""
    shop.missing.add(70000)
    async with app("002.tsx") as page:
        await page.click("text=Download File")
        await expect(page.locator(".error")).to_contain_text("Download failed: ")
        await expect(page.locator(".error")).not_to_contain_text("undefined")
        shop.missing.clear()
        await page.click("text=Retry")
        await downloaded(page, ".download-link", 70000)


async def test_polling_over_a_restart(app: OpenApp, shop: Shop, server: Service) -> None:
    """Polls that fail while the server is away are followed by ones that do not."""
    shop.hold(70000)
    async with app("002.tsx") as page:
        await page.click("text=Download File")
        await expect(page.locator(".status")).to_contain_text("Processing... 50%")
        async with page.expect_event("requestfailed"):
            await server.kill()
        shop.release()
        await server.start()
        await downloaded(page, ".download-link", 70000)


async def test_queue_position(app: OpenApp, shop: Shop, server: Service) -> None:
    """A job that waits says its place in the queue, and when it may be done."""
    shop.hold(*range(80000, 80008))
    for file_id in range(80000, 80009):
        await server.initiate({"file_ids": [file_id]})
    async with app("002.tsx") as page:
        await page.click("text=Download File")
        await expect(page.locator(".status")).to_contain_text("Position in queue: 2")
        shop.release()
        await downloaded(page, ".download-link", 70000)


async def test_socket_for_all_jobs(app: OpenApp, shop: Shop, server: Service) -> None:
    """The WebSocket hook is pushed its job as it changes, to the link."""
    shop.hold(70000)
    amended = {
        "002/useWebSocketDownload.ts": ("// ... rest of the hook", "return { job, setJob, ws };")
    }
    flag = f"--host-resolver-rules=MAP api.example.com:80 127.0.0.1:{server.port}"
    async with app("002-websocket.tsx", flag, amended=amended) as page:
        async with page.expect_websocket() as opened:
            await page.click("text=Start")
        assert (await opened.value).url == "ws://api.example.com/ws"
        await expect(page.locator(".status")).to_have_text("processing")
        await expect(page.locator(".progress")).to_have_text("50")
        shop.release()
        await expect(page.locator(".status")).to_have_text("completed")
        await downloaded(page, "a", 70000)


# --- 004: WebSocket with a fall-back to polling -------------------------------------


async def test_manager(app: OpenApp, shop: Shop) -> None:
    """The manager follows its WebSocket and downloads the archive by itself."""
    shop.hold(70002)
    async with app("004.tsx") as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.click("text=Start Download")
        await expect(page.locator(".job-status")).to_contain_text("Status: processing")
        await expect(page.locator(".progress")).to_contain_text("2 / 3 files (83.0%)")
        async with page.expect_download() as coming:
            shop.release()
        await check_archive(await coming.value, 70000, 70001, 70002)
        await expect(page.locator(".job-status")).to_contain_text("Status: ready")
        polls = [url for url in asked if "/job/" in url and not url.endswith("/download-url")]
        assert not polls, "it fell back to polling"


async def test_manager_failed_and_retried(app: OpenApp, shop: Shop, server: Service) -> None:
    """An error comes over the WebSocket; the retry of the same job ends with the archive."""
    shop.missing.add(70001)
    async with app("004.tsx") as page:
        await page.click("text=Start Download")
        await expect(page.locator(".job-status")).to_contain_text("Status: failed")
        await expect(page.locator(".error")).to_contain_text("70001")
        shop.missing.clear()
        async with page.expect_download() as coming:
            await page.click("text=Retry")
        await check_archive(await coming.value, 70000, 70001, 70002)
        await only_job(server)


async def test_manager_without_a_socket(app: OpenApp, shop: Shop, proxy: Breakable) -> None:
    """Where no WebSocket can be had the manager polls, and gets the archive."""
    shop.hold(70002)
    async with app("004.tsx", url=proxy.url) as page:
        await page.click("text=Start Download")
        await expect(page.locator(".progress")).to_contain_text("2 / 3 files")
        async with page.expect_download() as coming:
            shop.release()
        await check_archive(await coming.value, 70000, 70001, 70002)
        await expect(page.locator(".job-status")).to_contain_text("Status: ready")


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_manager_over_a_restart(
    app: OpenApp, shop: Shop, server: Service, proxy: Breakable, end: str
) -> None:
    """A manager that polls goes on when a server that was killed, or stopped, is back.

    Of a WebSocket that was open and is lost its program hears nothing that it
    acts upon: only one that cannot be had makes it poll.
    """
    shop.hold(70002)
    async with app("004.tsx", url=proxy.url) as page:
        await page.click("text=Start Download")
        await expect(page.locator(".progress")).to_contain_text("2 / 3 files")
        await (server.kill() if end == "kill" else server.stop(times=2))
        shop.release()
        async with page.expect_download() as coming:
            await server.start()
        await check_archive(await coming.value, 70000, 70001, 70002)
