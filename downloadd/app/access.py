"""Who may call, and the secret key that goes with it."""

from __future__ import annotations

import base64
import math

from downloadd.access.api_keys import ApiKeys
from downloadd.access.caller import Authenticator
from downloadd.access.event_tokens import EventTokens
from downloadd.config import Settings
from downloadd.config.sections import Auth, Limits
from downloadd.jobs.quotas import Quota, Quotas
from downloadd.objects.links import load_secret
from downloadd.ports import Limiter
from downloadd.sealing import derived
from downloadd.web.middleware.admission import Rate


def authenticator(settings: Settings) -> Authenticator | None:
    """Who knows callers by their credentials; None: everybody is anonymous. ``ConfigError``."""
    auth = settings.auth
    if auth.mode == "api-keys":
        return ApiKeys(settings.api_keys_file, auth.roles)
    return _tokens(auth) if auth.mode == "jwt" else None


def _tokens(auth: Auth) -> Authenticator:
    # Here, because what it stands on takes long to import.
    from downloadd.access.tokens import Tokens

    return Tokens(
        key=auth.jwt_key,
        jwks_file=auth.jwt_jwks_file,
        algorithms=auth.jwt_algorithms,
        issuer=auth.jwt_issuer,
        audience=auth.jwt_audience,
        roles=auth.roles,
    )


def rate(limits: Limits) -> Rate:
    """How many requests a client may make."""
    roles = {
        role: quota.requests_per_minute
        for role, quota in limits.quotas.items()
        if quota.requests_per_minute is not None
    }
    return Rate(usual=limits.requests_per_minute, roles=roles, seconds=math.ceil(limits.window))


def quotas(limits: Limits, limiter: Limiter) -> Quotas:
    """How many jobs and bytes."""
    usual = limits.jobs_per_minute
    roles = {
        role: Quota(
            jobs_per_minute=usual if quota.jobs_per_minute is None else quota.jobs_per_minute,
            jobs_per_day=quota.jobs_per_day,
            bytes_per_day=quota.bytes_per_day,
        )
        for role, quota in limits.quotas.items()
    }
    return Quotas(limiter, Quota(jobs_per_minute=usual), roles)


def event_tokens(settings: Settings, secret: bytes) -> EventTokens:
    """What browsers watch jobs with."""
    return EventTokens(derived(secret, "events"), ttl=settings.auth.event_token_ttl)


def has_secret(settings: Settings) -> bool:
    """Whether there is a secret key that all who share the Redis have."""
    return bool(settings.state.secret_key) or not settings.state.redis_url


def secret_key(settings: Settings) -> bytes | None:
    """The key that is set, or else the one kept on this machine; None where there is none.

    ``ConfigError`` where it cannot be kept.
    """
    state = settings.state
    if state.secret_key:
        return base64.b64decode(state.secret_key)
    if not has_secret(settings):
        return None
    loss = "event tokens, and jobs under way whose sources have headers,"
    return load_secret(state.secret_key_path, "secret key", loss)
