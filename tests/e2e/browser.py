"""Debian's Chromium, headless, driven by Playwright."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import BrowserContext, async_playwright

from tests.tools import require_tool

#: It may run as root, and calls nobody but the page's own hosts.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A page that a test makes up comes from no address, and so from the internet,
    # from where nothing on this machine may be called.
    "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets",
)
#: Milliseconds that a page may take for whatever is waited for.
PATIENCE_MS = 30_000


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[BrowserContext]:
    """A fresh profile in a browser of its own; skips the test where there is none."""
    path = require_tool("chromium", "chromium-browser", "google-chrome")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*_FLAGS, *flags])
        try:
            context = await browser.new_context(accept_downloads=True)
            context.set_default_timeout(PATIENCE_MS)
            yield context
        finally:
            await browser.close()
