"""Who calls, and whether they have called too often (SPEC §7).

One after the other: a caller who is known is counted by name, everybody else,
and everybody whose credential is refused, by address.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from downloadd.access.caller import ANONYMOUS, Authenticator
from downloadd.errors import Forbidden, TooManyRequests, Unauthorized, ValidationError
from downloadd.ports import Allowance, Limiter
from downloadd.web.clients import client_of
from downloadd.web.requests import (
    CALLER,
    NO_CREDENTIAL,
    TOKEN,
    caller_name,
    job_id_from,
    watcher_of,
)

_log = structlog.get_logger(__name__)

#: A WebSocket that may come without a credential: it has an event token for each job.
CONVERSATION = "/ws"
#: Where callers are asked who they are; health, metrics and documents are everybody's.
_ASKED = ("/v1/", CONVERSATION)
#: Links to archives, which are signed, and read in as many ranges as clients like.
_SIGNED = "/v1/files/"
#: Routes on which the token of a job's events counts.
_EVENTS = frozenset(
    {
        "/v1/download/subscribe/{job_id}",
        "/v1/download/stream/{job_id}",
        "/v1/export/{job_id}/progress",
    }
)

_ALLOWANCE: web.RequestKey[Allowance] = web.RequestKey("allowance", Allowance)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """How many requests a client may make within a window."""

    usual: int
    #: Of roles that have another limit.
    roles: Mapping[str, int] = field(default_factory=dict)
    seconds: int


def admission(
    authenticator: Authenticator | None,
    rate: Rate,
    limiter: web.AppKey[Limiter],
) -> Middleware:
    """Return the middleware; without an ``authenticator`` everybody is anonymous."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = "" if resource is None else resource.canonical
        if not path.startswith(_ASKED) or path.startswith(_SIGNED):
            return await handler(request)
        refusal = await _identify(request, path, authenticator)
        await _count(request, rate, request.app[limiter])
        if refusal is not None:
            _log.info("auth.refused", reason=refusal.message, remote=client_of(request))
            raise refusal
        return await handler(request)

    return middleware


async def _identify(
    request: web.Request, path: str, authenticator: Authenticator | None
) -> Unauthorized | Forbidden | ValidationError | None:
    """Note who calls; return why they may not."""
    if authenticator is None:
        request[CALLER] = ANONYMOUS
        return None
    try:
        if (credential := _credential(request)) is not None:
            request[CALLER] = await authenticator.identify(credential)
            structlog.contextvars.bind_contextvars(userId=request[CALLER].user)
        elif path in _EVENTS and TOKEN in request.query:
            job_id = job_id_from(request.match_info["job_id"])
            request[CALLER] = watcher_of(request, job_id, request.query[TOKEN])
        elif path != CONVERSATION:
            return Unauthorized(NO_CREDENTIAL)
    except (Unauthorized, Forbidden, ValidationError) as exc:
        return exc
    return None


def _credential(request: web.Request) -> str | None:
    """The one that is sent. ``Unauthorized`` for several: which one counts would be a guess."""
    given = [*request.headers.getall("X-API-Key", ())]
    for value in request.headers.getall("Authorization", ()):
        scheme, _, rest = value.strip().partition(" ")
        if scheme.lower() != "bearer" or not rest.strip():
            raise Unauthorized("Authorization has to be: Bearer, a space, and a key or token.")
        given.append(rest.strip())
    if len(given) > 1:
        raise Unauthorized("Send one credential, once.")
    return given[0] if given else None


async def _count(request: web.Request, rate: Rate, limiter: Limiter) -> None:
    caller = request.get(CALLER, ANONYMOUS)
    limit = rate.roles.get(caller.role, rate.usual)
    left = await limiter.pace("requests", caller_name(request), limit=limit, seconds=rate.seconds)
    request[_ALLOWANCE] = left
    if not left.granted:
        raise TooManyRequests(
            f"More than {limit:,} requests in {rate.seconds} seconds. Wait, then try again.",
            retry_after=left.reset,
        )


async def send_rate_headers(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler, because streams send their headers before middleware sees them.

    The one reset is the second of the clock at which there is more, as GitHub
    has it; the other seconds from now (draft-ietf-httpapi-ratelimit-headers-06).
    """
    left = request.get(_ALLOWANCE)
    if left is None:
        return
    reset = math.ceil(left.reset)
    for prefix in ("X-RateLimit", "RateLimit"):
        response.headers[f"{prefix}-Limit"] = str(left.limit)
        response.headers[f"{prefix}-Remaining"] = str(left.remaining)
    response.headers["X-RateLimit-Reset"] = str(int(time.time()) + reset)
    response.headers["RateLimit-Reset"] = str(reset)
