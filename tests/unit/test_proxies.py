"""What ``nginx.conf`` and the page about proxies say, against what the program does."""

from __future__ import annotations

import re
from http import HTTPStatus
from inspect import signature
from pathlib import Path

import pytest

from downloadd import errors
from downloadd.cli import serve
from downloadd.config import load
from downloadd.objects.clients import CONNECT_TIMEOUT as S3_CONNECT
from downloadd.objects.s3 import open_s3_store
from downloadd.state.connection import CONNECT_TIMEOUT as REDIS_CONNECT
from downloadd.state.setup import open_state
from downloadd.web import sse
from downloadd.web.body import BODY_TIMEOUT_SECONDS, MAX_BODY_BYTES
from downloadd.web.connection import HEAD_SECONDS, KEEPALIVE_SECONDS, MAX_LINE_BYTES
from downloadd.web.errors import CODES, RETRY_AFTER_SECONDS
from downloadd.web.handlers.jobs import KEEP
from downloadd.web.handlers.making import ANSWER_SHARE
from downloadd.web.middleware.security import HEADERS

ROOT = Path(__file__).parents[2]
NGINX = (ROOT / "nginx.conf").read_text()
PAGE = (ROOT / "docs" / "deploy.md").read_text()


def directive(name: str, place: str = "") -> str:
    """What a directive of ``nginx.conf`` is set to, the first after ``place``."""
    found = re.search(rf"^ *{name} ([^;]+);", NGINX[NGINX.index(place) :], re.MULTILINE)
    assert found, name
    return found[1]


def seconds(text: str) -> float:
    """Of "35s", or "1 h"."""
    number, unit = re.fullmatch(r"([0-9.]+) ?([sh])", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "h": 3600}[unit]


def table() -> dict[str, float]:
    """The page's times, by place and setting."""
    lines = PAGE.partition("### Time-outs on the way")[2].partition("\n### ")[0].splitlines()
    rows = [re.split(r" *\| *", line.strip("| ")) for line in lines if line.startswith("|")][2:]
    return {f"{where}: {setting}": seconds(time) for where, setting, time, *_ in rows}


def real() -> dict[str, float]:
    """The same from the program and from ``nginx.conf``."""
    settings = load(None, {}, {})
    limit = settings.server.request_timeout
    nginx = {
        "client to nginx: `client_header_timeout`": directive("client_header_timeout"),
        "client to nginx: `client_body_timeout`": directive("client_body_timeout"),
        "client to nginx: `send_timeout`": directive("send_timeout"),
        "client to nginx: `keepalive_timeout` (server)": directive("keepalive_timeout"),
        "nginx, all of a worker: `worker_shutdown_timeout`": directive("worker_shutdown_timeout"),
        "nginx to app: `proxy_connect_timeout`": directive("proxy_connect_timeout"),
        "nginx to app: `proxy_next_upstream_timeout`": directive("proxy_next_upstream_timeout"),
        "nginx to app: `proxy_send_timeout`": directive("proxy_send_timeout"),
        "nginx to app: `proxy_read_timeout`, all routes": directive("proxy_read_timeout"),
        "nginx to app: `proxy_read_timeout`, streams and files": directive(
            "proxy_read_timeout", "location ~ ^/(?:ws|"
        ),
        "nginx to app: `proxy_read_timeout`, health": directive(
            "proxy_read_timeout", "location /health/"
        ),
        "nginx to app: `keepalive_timeout` (upstream)": directive(
            "keepalive_timeout", "upstream app"
        ),
    }
    return {name: seconds(value) for name, value in nginx.items()} | {
        "app: idle connections": KEEPALIVE_SECONDS,
        "app: a request's head": HEAD_SECONDS,
        "app: a request's body": BODY_TIMEOUT_SECONDS,
        "app: `server.request_timeout`": limit,
        "app: `/v1/download/start` waits": limit * (1 - ANSWER_SHARE),
        "app, streams: heartbeat": sse.PING_SECONDS,
        "app, streams: end of a stream": sse.LIMIT_SECONDS,
        "app, streams: a client that takes nothing": sse.STALL_SECONDS,
        "app, stop: running jobs": serve.DRAIN_SECONDS,
        "app, stop: requests under way": serve.REQUEST_SECONDS,
        "app, stop: the whole": serve.STOP_SECONDS,
        "nginx's cache: finished states": float(KEEP["X-Accel-Expires"]),
        "app to Redis: connect": REDIS_CONNECT,
        "app to Redis: an answer": signature(open_state).parameters["timeout"].default,
        "app to S3: connect": S3_CONNECT,
        "app to S3: no progress of a transfer": signature(open_s3_store)
        .parameters["timeout"]
        .default,
        "app to source: `fetch.connect_timeout`": settings.fetch.connect_timeout,
        "app to source: `fetch.stall_timeout`": settings.fetch.stall_timeout,
        "app to callback: `webhooks.timeout`": settings.webhooks.timeout,
        "job: `jobs.timeout`": settings.jobs.timeout,
        "link: `storage.presign_ttl`": settings.storage.presign_ttl,
    }


def test_the_table_tells_the_truth() -> None:
    """Every time-out of ours is as it says."""
    told, known = table(), real()
    assert {name: told.get(name) for name in known} == known


def test_time_outs_fit_each_other() -> None:
    """Whoever is nearer to the client has more patience, and keeps idle connections shorter."""
    time = real()
    start, request = time["app: `/v1/download/start` waits"], time["app: `server.request_timeout`"]
    assert start < request < time["nginx to app: `proxy_read_timeout`, all routes"] < 60
    silence = time["nginx to app: `proxy_read_timeout`, streams and files"]
    assert silence > 3 * sse.PING_SECONDS
    assert time["nginx to app: `keepalive_timeout` (upstream)"] < time["app: idle connections"]
    assert time["client to nginx: `keepalive_timeout` (server)"] > 60, "an ALB's"
    assert time["app, stop: running jobs"] + time["app, stop: requests under way"] < 26.5
    assert time["app, stop: the whole"] < table()["Docker: `stop_grace_period`"]
    assert time["nginx, all of a worker: `worker_shutdown_timeout`"] >= sse.LIMIT_SECONDS


def test_limits_are_the_same() -> None:
    """nginx takes bodies and lines as long as the app does."""
    assert directive("client_max_body_size") == f"{MAX_BODY_BYTES // 1024**2}m"
    count, size = directive("large_client_header_buffers").split()
    assert int(size.removesuffix("k")) * 1024 >= MAX_LINE_BYTES
    assert int(count) >= 4
    assert f"larger than {MAX_BODY_BYTES // 1024**2} MiB" in NGINX


@pytest.mark.parametrize("status", [400, 404, 405, 408, 413, 429, 503])
def test_errors_have_the_apps_names(status: int) -> None:
    """A client need not know whose error it is."""
    codes = {**CODES, 429: errors.TooManyRequests.code}
    block = {
        name: NGINX.partition(f"$error_{name} {{")[2].partition("}")[0]
        for name in ("code", "title", "retry_after")
    }
    assert f" {status} {codes[status]};" in block["code"]
    assert f' {status} "{HTTPStatus(status).phrase}";' in block["title"]
    later = f" {status} {RETRY_AFTER_SECONDS};" in block["retry_after"]
    assert later == (status in (429, 503))


def test_security_headers_are_the_apps() -> None:
    """nginx's own errors carry those that the app's do."""
    block = NGINX.partition("location = /_error {")[2].partition("}")[0]
    for name, value in HEADERS.items():
        if name != "Server":
            assert re.search(rf'add_header {name} "?{re.escape(value)}"? always;', block), name
