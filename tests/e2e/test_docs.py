"""The page of the API in a browser: whole, from this server alone, and good for trying calls."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.async_api import expect

from tests import contract
from tests.e2e.browser import PATIENCE_MS, chromium
from tests.e2e.service import Service

expect.set_options(timeout=PATIENCE_MS)


async def test_the_page_shows_every_call_and_makes_one(folder: Path) -> None:
    """Each operation is there, nothing is refused by its policy, and nobody else is asked."""
    calls = [told for operations in contract.document()["paths"].values() for told in operations]
    asked: list[str] = []
    said: list[str] = []
    async with Service(folder / "data", {}) as server, chromium() as context:
        page = await context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda line: said.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        await page.goto(f"{server.url}/docs")
        await expect(page.locator(".opblock")).to_have_count(len(calls))
        await expect(page.locator(".info .title")).to_contain_text("downloadd")
        health = page.locator("#operations-operations-get_health")
        await health.locator(".opblock-summary-control").click()
        await health.get_by_role("button", name="Try it out").click()
        await health.get_by_role("button", name="Execute").click()
        answer = health.locator(".live-responses-table .response")
        await expect(answer.locator(".response-col_status")).to_contain_text("200")
        await expect(answer).to_contain_text("healthy")
        making = page.locator("#operations-jobs-post_v1_download_initiate")
        await making.locator(".opblock-summary-control").click()
        await expect(making).to_contain_text("order-4711.zip")
        assert await page.evaluate("getComputedStyle(document.querySelector('.opblock')).margin")
    assert said == []
    own = re.compile(rf"{re.escape(server.url)}/|data:")
    assert [url for url in asked if not own.match(url)] == []
    assert f"{server.url}/openapi.json" in asked
