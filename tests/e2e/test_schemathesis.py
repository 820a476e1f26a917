"""Schemathesis, an outside judge, finds nothing that the OpenAPI document does not say.

No 5xx but those of it, no status, type, header or answer that it does not
describe, and nothing taken that it forbids.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from yarl import URL

from tests.e2e.service import Service
from tests.origin import Origin

#: Seconds that it may take: the budget it is given, and until it is given up.
SECONDS, PATIENCE = 50, 150
#: What the document cannot say, but the rules of a request do: which hosts and
#: ports may be fetched from, and that ids and URLs are as many.
EXCLUDED = "positive_data_acceptance"


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_schemathesis_finds_nothing(folder: Path, origin: Origin) -> None:
    file = URL(origin.url(size=100)).with_host("localhost").with_query(None)
    environ = {
        # Jobs are made by ids. Of what it makes up itself no host is even looked up.
        "DOWNLOADD_FETCH_SOURCE_URL_TEMPLATE": f"{file}?n={{file_id}}",
        "DOWNLOADD_NETWORK_ALLOW": f"localhost:{file.port}",
        "DOWNLOADD_NETWORK_PORTS": "1",
        "DOWNLOADD_SERVER_REQUEST_TIMEOUT": "6",
    }
    async with Service(folder / "data", environ) as server:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("st")),
            "run",
            f"{server.url}/openapi.json",
            f"--max-time={SECONDS}",
            f"--exclude-checks={EXCLUDED}",
            "--request-timeout=10",
            "--continue-on-failure",
            "--warnings=off",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1"},
            cwd=folder,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                said = (await process.communicate())[0].decode()
        except TimeoutError:
            process.kill()
            said = (await process.communicate())[0].decode()
            pytest.fail(f"it did not end:\n{said[-3000:]}")
        assert process.returncode == 0, said[-8000:]
        assert int(re.findall(r"(\d+) generated", said)[0]) > 300, said[-3000:]
        log = server.log.read_text()
        assert "http.failed" not in log
        assert "cannot be resolved" not in log
        async with server.client.get("/v1/download/jobs?status=completed") as response:
            assert (await response.json())["total"] > 0
