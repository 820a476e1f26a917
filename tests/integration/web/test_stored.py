"""``file_ids`` and ``file_id`` without URLs: stored objects, or what a template makes of them."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from downloadd.app import POOL
from downloadd.cli.serve import serving
from downloadd.config import load
from downloadd.errors import ConfigError
from tests.content import content
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin


async def unpacked(server: Server, job: Mapping[str, str]) -> dict[str, bytes]:
    async with server.client.get(job["downloadUrl"]) as response:
        assert response.status == 200
        packed = zipfile.ZipFile(io.BytesIO(await response.read()))
    return {name: packed.read(name) for name in packed.namelist()}


async def test_ids_are_stored_objects(start: Start, tmp_path: Path) -> None:
    """Each id's file is the object that storage.source_key names, beside the archives."""
    async with start(storage__source_key="in/{file_id}.bin") as server:
        folder = tmp_path / "data" / "archives" / "in"
        folder.mkdir()
        for one in (70000, 70001):
            (folder / f"{one}.bin").write_bytes(content(one, 300_000))
        made = await server.initiate({"file_ids": [70001, 70000]})
        job = await server.ended(made["jobId"])
        assert job["status"] == "completed", job
        assert [(it["fileId"], it["originalUrl"]) for it in job["files"]] == [
            ("70001", "storage:///in/70001.bin"),
            ("70000", "storage:///in/70000.bin"),
        ]
        assert await unpacked(server, job) == {
            f"{one}.bin": content(one, 300_000) for one in (70001, 70000)
        }


async def test_a_missing_one_is_named(start: Start) -> None:
    """The job says which id has no stored file, and nothing of where it was looked for."""
    async with start() as server:
        made = await server.initiate({"file_ids": [70000]})
        job = await server.ended(made["jobId"])
        assert (job["status"], job["errorCode"]) == ("failed", "source_missing")
        assert job["error"] == "File 70000: There is no stored file 70000."


async def test_ids_fit_into_a_template(start: Start, origin: Origin) -> None:
    """With fetch.source_url_template an id's file is what lies at the URL made of it."""
    template = f"http://127.0.0.1:{origin.port}/file/{{file_id}}/1000?etag=none"
    async with start(fetch__source_url_template=template) as server:
        made = await server.initiate({"file_ids": [70000, 70001]})
        job = await server.ended(made["jobId"])
        assert job["status"] == "completed", job
        files = await unpacked(server, job)
        assert sorted(files.values()) == sorted(content(one, 1000) for one in (70000, 70001))
        assert job["files"][0]["originalUrl"].endswith("/file/70000/1000?etag=***")


async def test_a_template_that_is_closed_stops_the_start(tmp_path: Path) -> None:
    """A template that the guard refuses is told to who runs the server, not to each caller."""
    given = {
        "server.port": 0,
        "state.data_dir": str(tmp_path / "data"),
        "fetch.source_url_template": "http://10.0.0.1/{file_id}",
    }
    with pytest.raises(ConfigError, match="source_url_template"):
        async with serving(load(None, {}, given)):
            pass


async def test_a_simulated_delay_can_be_cancelled(start: Start, origin: Origin) -> None:
    """Files are held back as long as is set, which a cancel ends at once."""
    settings = {"enabled": True, "min_ms": 600_000, "max_ms": 600_000}
    async with start(**{f"simulation__{key}": value for key, value in settings.items()}) as server:
        made = await server.initiate({"source_urls": [origin.url()]})
        while (await server.status(made["jobId"])).get("stage") != "fetching":
            await asyncio.sleep(0.02)
        async with asyncio.timeout(10):
            async with server.client.delete(f"/v1/download/{made['jobId']}") as response:
                assert response.status == 200
            while server.app[POOL].active:
                await asyncio.sleep(0.02)
        assert (await server.status(made["jobId"]))["status"] == "cancelled"
        assert not origin.requests


async def test_a_simulated_delay_ends(start: Start, origin: Origin) -> None:
    """A file that was held back is fetched as any other."""
    settings = {"enabled": True, "min_ms": 300, "max_ms": 400}
    async with start(**{f"simulation__{key}": value for key, value in settings.items()}) as server:
        made = await server.initiate({"source_urls": [origin.url()]})
        job = await server.ended(made["jobId"])
        assert job["status"] == "completed"
        assert job["processingTimeMs"] >= 300
