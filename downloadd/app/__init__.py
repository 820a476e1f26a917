"""The composition root: settings in, a running service out.

One ``cleanup_ctx`` and one typed ``AppKey`` for each long-lived resource. They
begin in the order of ``RESOURCES`` and end in the reverse: what uses another
is gone before it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from urllib.parse import quote

from aiohttp import web

from downloadd import __version__
from downloadd.app import access, foundations, webhooks, work
from downloadd.app.site import (
    CLOCK,
    GUARD,
    POOL,
    SITE,
    STATE,
    STORAGE_PROBE,
    TRACING,
    Site,
    url_of,
)
from downloadd.config import Settings
from downloadd.config.sections import Telemetry
from downloadd.errors import AddressBlocked, ConfigError
from downloadd.model import Source
from downloadd.network.guard import AddressGuard
from downloadd.ports import SystemClock
from downloadd.telemetry.metrics import Metrics
from downloadd.telemetry.tracing import Tracing
from downloadd.web import keys
from downloadd.web.lifecycle import Lifecycle
from downloadd.web.openapi.contract import Contract
from downloadd.web.routes import make_application
from downloadd.web.schemas import InitiateReader
from downloadd.web.slots import ANSWERS, BODIES, StreamSlots, Turns
from downloadd.web.sse import Streams
from downloadd.web.websocket import Sockets

__all__ = ["POOL", "SITE", "STATE", "STORAGE_PROBE", "begin_drain", "create_app", "url_of"]

#: An id that may be asked for.
_SAMPLE_ID = 10_000

RESOURCES: Sequence[Callable[[web.Application], AsyncIterator[None]]] = (
    foundations.tracing,
    foundations.redis,
    foundations.spool,
    foundations.meters,
    foundations.secret,
    foundations.state,
    foundations.limits,
    foundations.objects,
    foundations.source,
    work.probes,
    work.pace,
    work.pool,
    work.sweeper,
    work.service,
    work.preflight,
    webhooks.webhooks,
    work.streams,
)


def create_app(
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
) -> web.Application:
    """Put the application together; its resources begin with its start.

    ``host`` and ``port`` are those that the server listens on, where they are
    not the settings' own (port 0). Raises ``ConfigError``; starting raises
    ``StateLocked`` and other ``StateError``s, ``StorageError``, ``SpoolError``.
    """
    metrics = Metrics(roles=settings.auth.roles)
    local_files = settings.storage.kind == "local"
    tracing = _tracing(settings.telemetry)
    app = make_application(
        metrics=metrics,
        cors_origins=settings.server.cors_origins,
        request_timeout=settings.server.request_timeout,
        local_files=local_files,
        authenticator=access.authenticator(settings),
        rate=access.rate(settings.limits),
        spans=tracing,
        trusted_proxies=settings.server.trusted_proxies,
    )
    site = Site(
        settings=settings,
        host=settings.server.host if host is None else host,
        port=settings.server.port if port is None else port,
    )
    app[SITE] = site
    app[CLOCK] = SystemClock()
    app[TRACING] = tracing
    app[GUARD] = _guard(site)
    app[keys.METRICS] = metrics
    app[keys.LIFECYCLE] = Lifecycle()
    app[keys.CORS_ORIGINS] = settings.server.cors_origins
    app[keys.REQUEST_TIMEOUT] = settings.server.request_timeout
    app[keys.BUCKET] = settings.storage.bucket or "archives"
    app[keys.SOCKETS] = Sockets(metrics.active_websocket_connections)
    app[keys.SLOTS] = StreamSlots(
        per_client=settings.limits.streams_per_client, total=settings.limits.streams
    )
    app[ANSWERS], app[BODIES] = Turns(), Turns()
    app[keys.STREAMS] = Streams(metrics.active_sse_connections)
    app[keys.INITIATE] = InitiateReader(
        max_files=settings.jobs.max_files,
        check_url=app[GUARD].check_url,
        locate=_locator(settings, app[GUARD]),
        callbacks=webhooks.can_sign(settings),
        headers=access.has_secret(settings),
    )
    app[keys.CONTRACT] = Contract(app[keys.INITIATE].schema, local_files=local_files)
    app.cleanup_ctx.extend(RESOURCES)
    app.on_shutdown.append(_end_streams)
    return app


def begin_drain(app: web.Application) -> None:
    """Tell balancers and streams that this process goes away; requests are still answered."""
    app[keys.LIFECYCLE].draining = True
    app[keys.STREAMS].end_all()
    app[keys.SOCKETS].end_all()


async def _end_streams(app: web.Application) -> None:
    begin_drain(app)


def _tracing(telemetry: Telemetry) -> Tracing:
    if not telemetry.otlp_endpoint:
        return Tracing()
    return Tracing.to(
        telemetry.otlp_endpoint,
        service=telemetry.service_name,
        version=__version__,
        ratio=telemetry.trace_sample_ratio,
    )


def _guard(site: Site) -> AddressGuard:
    network = site.settings.network
    return AddressGuard(
        allow=network.allow,
        deny=network.deny,
        ports=network.ports,
        own=[(site.host, site.port)],
        known_as=site.settings.server.public_url,
    )


def _locator(settings: Settings, guard: AddressGuard) -> Callable[[int], Source]:
    """Where a file lies that is asked for by its id alone.

    ``ConfigError`` for a template of addresses that are closed.
    """
    template, key = settings.fetch.source_url_template, settings.storage.source_key

    def locate(file_id: int) -> Source:
        if template:
            url = template.replace("{file_id}", str(file_id))
            return Source(url=url, file_id=file_id)
        named = key.replace("{file_id}", str(file_id))
        return Source(url=f"storage:///{quote(named)}", key=named, file_id=file_id)

    if template:
        _check_template(locate(_SAMPLE_ID).url, guard)
    return locate


def _check_template(url: str, guard: AddressGuard) -> None:
    """Tell who runs the server, and not each caller."""
    try:
        guard.check_url(url)
    except AddressBlocked as exc:
        raise ConfigError(
            f"fetch.source_url_template makes URLs that may not be fetched: {exc.reason}; "
            "network.allow and network.ports open addresses and ports"
        ) from exc
