"""Names by a name server that means no good: a real one, asked by the whole service.

The service, the origin and the name server run in a network of their own (a
Linux namespace), in which a public address is this machine's: so what passes
the guard is really dialled, and what must not be has something to be dialled.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tools import missing, require_tool

PUBLIC = "9.8.7.6"
#: Where the origin listens on the public address, and a trap on loopback.
PORT = 8080
#: How each name's file ends.
ENDS = {
    "good": "completed",
    "late-3": "completed",
    "GOOD": "completed",
    "good.": "completed",
    "bad": "address_blocked",
    "meta": "address_blocked",
    "mixed": "address_blocked",
    "mixed6": "address_blocked",
    "mapped": "address_blocked",
    "nat64": "address_blocked",
    "sixtofour": "address_blocked",
    "ula": "address_blocked",
    "link": "address_blocked",
    "many": "address_blocked",
    "alias": "address_blocked",
    "127-0-0-1.ip": "address_blocked",
    "10-0-0-1.ip": "address_blocked",
    "169-254-169-254.ip": "address_blocked",
    "0-0-0-0.ip": "address_blocked",
    "224-0-0-1.ip": "address_blocked",
    "alias-loop": "source_unreachable",
    "never-1": "source_unreachable",
    "nx": "source_unreachable",
    "fail": "source_unreachable",
    "refused": "source_unreachable",
    "empty": "source_unreachable",
    "noise": "source_unreachable",
    "cut": "source_unreachable",
    "other": "source_unreachable",
}
#: Public the first time that they are asked for, loopback from the second or third on.
TURNING = ("turn", "turn-late")

#: For the next request to be made over another connection.
HANGUP = "/file/1/10?hangup=1"

_SET_UP = """
set -e
ip link set lo up
ip addr add {public}/32 dev lo
ip -6 addr add 2606:4700::1/128 dev lo
printf 'nameserver 127.0.0.1\\noptions timeout:1 attempts:2\\n' > {folder}/resolv.conf
mount --bind {folder}/resolv.conf /etc/resolv.conf
exec {python} -m tests.security.test_name_server {folder}
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of it in there."""
    require_tool("ip")
    folder = tmp_path_factory.mktemp("network")
    script = _SET_UP.format(public=PUBLIC, folder=folder, python=sys.executable)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    if done.returncode and "unshare" in done.stderr:
        missing("a network namespace of one's own")
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", sorted(ENDS))
def test_a_name(found: dict[str, Any], name: str) -> None:
    """It is fetched from the public address, or refused, or has none."""
    assert found["ends"][name] == ENDS[name]


@pytest.mark.timeout(180)
def test_nothing_private_was_dialled(found: dict[str, Any]) -> None:
    """Neither the trap on loopback nor the server itself ever heard of it."""
    assert found["trapped"] == 0
    assert found["ends"]["own"] == "address_blocked"


@pytest.mark.timeout(180)
def test_names_that_change_between_two_answers(found: dict[str, Any]) -> None:
    """What was checked is what is dialled: no second answer counts (DNS rebinding)."""
    assert found["turning"]["turn"] == ["completed", "address_blocked"]
    assert found["turning"]["turn-late"] == ["completed", "completed"]


@pytest.mark.timeout(180)
def test_a_redirect_to_a_name(found: dict[str, Any]) -> None:
    assert found["redirected"] == "address_blocked"


@pytest.mark.timeout(180)
def test_callbacks(found: dict[str, Any]) -> None:
    """They are guarded as sources are, at the moment of each call."""
    assert found["callback"] == "The receiver's address may not be called."


@pytest.mark.timeout(180)
def test_silent_name_servers_hold_nobody_up(found: dict[str, Any]) -> None:
    """While a hundred names wait for an answer, another one is had at once."""
    assert found["beside_silence"][0] == "completed"
    assert found["beside_silence"][1] < 5


@pytest.mark.timeout(180)
def test_the_log_says_why(found: dict[str, Any]) -> None:
    """Clients read one sentence for all; the address and the reason are in the log."""
    assert found["said"] == ["File 1: This address may not be fetched."]
    assert "mixed.example is 127.0.0.1 port 8080: loopback" in found["log"]
    assert f"own.example is {PUBLIC}" in found["log"]


# --- in there ---------------------------------------------------------------------------------


async def _main(folder: Path) -> dict[str, Any]:
    from tests.e2e.service import Service
    from tests.origin import Origin
    from tests.security.name_server import NameServer

    environ = {
        "DOWNLOADD_NETWORK_ALLOW": "",
        "DOWNLOADD_SERVER_HOST": "0.0.0.0",
        "DOWNLOADD_AUTH_ALLOW_ANONYMOUS": "true",
        "DOWNLOADD_FETCH_RETRIES": "0",
        "DOWNLOADD_FETCH_CONNECT_TIMEOUT": "3",
        "DOWNLOADD_FETCH_TOTAL": "200",
        "DOWNLOADD_JOBS_CONCURRENCY": "150",
        "DOWNLOADD_NETWORK_PORTS": "80,8000-8999,10000-65535",
    }
    async with (
        NameServer(PUBLIC),
        Origin(host=PUBLIC, port=PORT) as origin,
        Origin(host="127.0.0.1", port=PORT) as trap,
        Service(folder / "data", environ) as server,
    ):
        result: dict[str, Any] = {"turning": {}}

        async def end(url: str, **more: Any) -> dict[str, Any]:
            return await server.ended(await server.initiate({"source_urls": [url], **more}))

        def at(name: str, path: str = "/file/1/10", port: int = PORT) -> str:
            host = f"{name.rstrip('.')}.example{'.' if name.endswith('.') else ''}"
            return f"http://{host}:{port}{path}"

        async def word(url: str) -> str:
            job = await end(url, options={"dedupe": False})
            return str(job.get("errorCode") or job["status"])

        for name in TURNING:
            result["turning"][name] = [await word(at(name, HANGUP))]
        turned = time.monotonic()
        result["ends"] = {"own": await word(at("own", "/health", server.port))}
        # One by one: a name server whose answers make no sense is not asked for a while.
        for name in ENDS:
            result["ends"][name] = await word(at(name))
        # aiohttp keeps what was checked for ten seconds.
        await asyncio.sleep(max(0.0, turned + 11 - time.monotonic()))
        for name in TURNING:
            result["turning"][name].append(await word(at(name, HANGUP)))
        result["redirected"] = await word(at("good", f"/file/1/10?to={at('bad')}"))
        job = await end(at("good"), callback_url=at("mixed", "/hook"))
        result["callback"] = await _first_attempt(server, job["jobId"])
        result["said"] = sorted({(await end(at(name)))["error"] for name in ("bad", "mixed")})
        silent = [
            await server.initiate({"source_urls": [at(f"never-{number}")]}) for number in range(100)
        ]
        began = time.monotonic()
        result["beside_silence"] = [await word(at("good", "/file/2/10")), time.monotonic() - began]
        for job_id in silent:
            await server.cancel(job_id)
        result["trapped"] = trap.connections
        assert origin.connections > 0
        result["log"] = server.log.read_text()
        return result


async def _first_attempt(server: Any, job_id: str) -> str:
    async with asyncio.timeout(20):
        while True:
            async with server.client.get(f"/v1/download/{job_id}/deliveries") as response:
                (delivery,) = (await response.json())["deliveries"]
            if delivery["attempts"]:
                return str(delivery["attempts"][0]["error"])
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    os.environ["HOME"] = tempfile.mkdtemp(dir=sys.argv[1])
    print(json.dumps(asyncio.run(_main(Path(sys.argv[1])))))
