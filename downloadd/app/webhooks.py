"""What tells others of jobs' ends; not there where nothing is there to sign with."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator
from functools import partial

import structlog
from aiohttp import web

from downloadd.app.site import CLOCK, DEAD_OWNERS, GUARD, SITE, STATE, TRACING
from downloadd.config import Settings
from downloadd.config.fields import SigningSecret
from downloadd.errors import ConfigError
from downloadd.jobs.deliverer import Deliverer
from downloadd.jobs.deliveries import Deliveries
from downloadd.jobs.messages import BodyWriter
from downloadd.network.webhooks import WebhookCaller
from downloadd.objects.links import kept_secret
from downloadd.web import keys
from downloadd.web.views import job_view

log = structlog.get_logger(__name__)


def can_sign(settings: Settings) -> bool:
    """Whether there is a secret that all who share the Redis sign with."""
    return bool(settings.webhooks.secret) or not settings.state.redis_url


async def webhooks(app: web.Application) -> AsyncIterator[None]:
    settings, state, service = app[SITE].settings, app[STATE], app[keys.SERVICE]
    app[keys.DELIVERIES] = Deliveries(service, state.outbox)
    if not can_sign(settings):
        log.info("webhooks.off", reason="webhooks.secret is not set; callback_url is refused")
        yield
        return
    write = BodyWriter(
        store=state.jobs, refresh=service.refresh, render=partial(job_view, files=True)
    )
    timeout = settings.webhooks.timeout
    async with (
        WebhookCaller.open_session(
            app[GUARD], secret=_secret(settings), timeout=timeout, tracing=app[TRACING]
        ) as caller,
        Deliverer(
            outbox=state.outbox,
            caller=caller,
            write=write,
            clock=app[CLOCK],
            metrics=app[keys.METRICS],
            timeout=timeout,
            schedule=settings.webhooks.schedule,
            dead_owners=app[DEAD_OWNERS],
            tracing=app[TRACING],
        ) as deliverer,
    ):
        state.feed.on_webhook(deliverer.wake)
        yield


def _secret(settings: Settings) -> str:
    """The secret that is set, or else the one kept on this machine. ``ConfigError``."""
    if settings.webhooks.secret:
        return settings.webhooks.secret
    path = settings.state.webhook_secret_path
    text = kept_secret(path, "webhook secret", _new_secret).decode(errors="replace").strip()
    try:
        secret = SigningSecret().parse(text)
    except ValueError as exc:
        raise ConfigError(_SPOILT.format(path=path)) from exc
    if not secret:
        raise ConfigError(_SPOILT.format(path=path))
    return secret


_SPOILT = (
    'The webhook secret {path} is not "whsec_" and base64. Remove it to get a new one, '
    "which receivers have to be told."
)


def _new_secret() -> bytes:
    return b"whsec_" + base64.b64encode(secrets.token_bytes(32)) + b"\n"
