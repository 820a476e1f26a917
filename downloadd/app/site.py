"""What the resources are made from, and where each is found on the application."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from aiohttp import web

from downloadd.config import Settings
from downloadd.jobs.pace import PaceBook
from downloadd.jobs.pool import Pool
from downloadd.jobs.probe import Probe
from downloadd.network.fetch import HttpSource
from downloadd.network.guard import AddressGuard
from downloadd.pipeline import Spool
from downloadd.pipeline.spool_folder import SpoolFolder
from downloadd.ports import ObjectStore, SystemClock
from downloadd.state.setup import State
from downloadd.telemetry.tracing import Tracing


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What the resources are made from."""

    settings: Settings
    #: Where the server listens.
    host: str
    port: int

    @property
    def base_url(self) -> str:
        """How clients reach the server, without a slash at the end."""
        return self.settings.server.public_url.rstrip("/") or url_of(self.host, self.port)


SITE: web.AppKey[Site] = web.AppKey("site", Site)
TRACING: web.AppKey[Tracing] = web.AppKey("tracing", Tracing)
CLOCK: web.AppKey[SystemClock] = web.AppKey("clock", SystemClock)
REDIS_URL: web.AppKey[str] = web.AppKey("redis_url", str)
STATE: web.AppKey[State] = web.AppKey("state", State)
OBJECTS: web.AppKey[ObjectStore] = web.AppKey("objects", ObjectStore)
GUARD: web.AppKey[AddressGuard] = web.AppKey("guard", AddressGuard)
SOURCE: web.AppKey[HttpSource] = web.AppKey("source", HttpSource)
SPOOL_FOLDER: web.AppKey[SpoolFolder] = web.AppKey("spool_folder", SpoolFolder)
#: Processes that were found dead at the start.
DEAD_OWNERS: web.AppKey[Sequence[str]] = web.AppKey("dead_owners")
STORAGE_PROBE: web.AppKey[Probe] = web.AppKey("storage_probe", Probe)
#: Seals headers and signs event tokens; None: those who share the Redis have none.
SECRET: web.AppKey[bytes | None] = web.AppKey("secret")
SPOOL: web.AppKey[Spool] = web.AppKey("spool", Spool)
PACE: web.AppKey[PaceBook] = web.AppKey("pace", PaceBook)
POOL: web.AppKey[Pool] = web.AppKey("pool", Pool)


def url_of(host: str, port: int) -> str:
    """The address of a server that listens on ``host``, as its own machine sees it."""
    with suppress(ValueError):
        address = ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
