"""What handlers find on the application and on the request, typed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from aiohttp import web

from downloadd.jobs.deliveries import Deliveries
from downloadd.jobs.preflight import Preflight
from downloadd.jobs.quotas import Quotas
from downloadd.jobs.service import JobService
from downloadd.objects.local import LocalStore
from downloadd.ports import Limiter
from downloadd.telemetry.metrics import Metrics
from downloadd.web.health import Disk, Health
from downloadd.web.lifecycle import Lifecycle
from downloadd.web.openapi.contract import Contract
from downloadd.web.schemas import InitiateReader
from downloadd.web.slots import StreamSlots
from downloadd.web.sse import Streams
from downloadd.web.websocket import Sockets

SERVICE: web.AppKey[JobService] = web.AppKey("service", JobService)
PREFLIGHT: web.AppKey[Preflight] = web.AppKey("preflight", Preflight)
DELIVERIES: web.AppKey[Deliveries] = web.AppKey("deliveries", Deliveries)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
HEALTH: web.AppKey[Health] = web.AppKey("health", Health)
LIFECYCLE: web.AppKey[Lifecycle] = web.AppKey("lifecycle", Lifecycle)
SOCKETS: web.AppKey[Sockets] = web.AppKey("sockets", Sockets)
STREAMS: web.AppKey[Streams] = web.AppKey("streams", Streams)
SLOTS: web.AppKey[StreamSlots] = web.AppKey("slots", StreamSlots)
LIMITER: web.AppKey[Limiter] = web.AppKey("limiter")
QUOTAS: web.AppKey[Quotas] = web.AppKey("quotas", Quotas)
CONTRACT: web.AppKey[Contract] = web.AppKey("contract", Contract)
INITIATE: web.AppKey[InitiateReader] = web.AppKey("initiate", InitiateReader)
#: Origins whose pages may read answers.
CORS_ORIGINS: web.AppKey[Collection[str]] = web.AppKey("cors_origins")
#: Seconds that an answer may take.
REQUEST_TIMEOUT: web.AppKey[float] = web.AppKey("request_timeout", float)
#: What the place is called where archives lie.
BUCKET: web.AppKey[str] = web.AppKey("bucket", str)
#: Only there where archives lie in a folder of this machine.
LOCAL_STORE: web.AppKey[LocalStore] = web.AppKey("local_store", LocalStore)
#: Where everything lies that this machine keeps.
DISK: web.AppKey[Disk] = web.AppKey("disk", Disk)
#: How many jobs wait, in all processes.
QUEUE_DEPTH: web.AppKey[Callable[[], Awaitable[int]]] = web.AppKey("queue_depth")
