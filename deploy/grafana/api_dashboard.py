"""What the design documents draw as "API Overview"."""

from __future__ import annotations

from panels import (
    Dashboard,
    Query,
    Row,
    alert,
    bars,
    colours,
    heatmap,
    logs,
    lokis,
    stat,
)
from promql import percentiles, quantile, rate, share

_V1 = 'path=~"/v1/.*"'
#: Event streams last as long as their jobs, archives as long as their readers.
_BRIEF = (
    f'{_V1}, path!~"/v1/(download/(subscribe|stream)/.*|download/(start|check)'
    '|export/.*/progress|files/.*)"'
)
_SECONDS = "http_request_duration_seconds"

API = Dashboard(
    uid="downloadd-api",
    title="downloadd: API overview",
    about="Requests: how many, how they were answered, and how fast.",
    rows=[
        Row(
            stat(
                "Request rate",
                "Requests a minute, of all addresses but health checks and metrics.",
                [Query(f"{rate('http_requests_total', _V1)} * 60")],
                unit="reqpm",
            ),
            stat(
                "Error rate",
                "Share of the API's requests that were answered 5xx. " + alert("ServerErrors"),
                [Query(share("http_requests_total", f'{_V1}, status=~"5.."', _V1))],
                unit="percentunit",
                steps=colours(0.01, 0.05),
                empty="0",
            ),
            stat(
                "p99 latency",
                "99 of 100 requests were answered within this time; without event streams, "
                "archives, start and check, which are slow by design. " + alert("SlowResponses"),
                [Query(quantile(0.99, _SECONDS, _BRIEF))],
                unit="s",
                steps=colours(0.5, 1),
            ),
            stat(
                "Processes",
                "Processes that answer Prometheus. " + alert("DownloaddDown"),
                [Query('sum(up{job="downloadd", instance=~"$instance"})')],
                unit="short",
            ),
            height=4,
        ),
        Row(
            heatmap(
                "Request duration distribution",
                "How many requests took how long; without what is slow by design.",
                Query(
                    f"sum by (le) (increase({_SECONDS}_bucket@{{{_BRIEF}}}[$__rate_interval]))",
                    "{{le}}",
                ),
            ),
        ),
        Row(
            bars(
                "Requests by endpoint",
                "Requests a second; an address that no route matches is “unmatched”.",
                [Query(rate("http_requests_total", by="path"), "{{path}}")],
                unit="reqps",
            ),
            bars(
                "Requests by status",
                "429: a limit of the caller's. 499: the client went away. "
                + alert("ManyRateLimited"),
                [Query(rate("http_requests_total", by="status"), "{{status}}")],
                unit="reqps",
            ),
        ),
        Row(
            bars(
                "Latency",
                "Without what is slow by design. The mean is what SlowResponses looks at.",
                [
                    *percentiles(_SECONDS, _BRIEF),
                    Query(
                        f"{rate(f'{_SECONDS}_sum', _BRIEF)} / {rate(f'{_SECONDS}_count', _BRIEF)}",
                        "mean",
                    ),
                ],
                unit="s",
            ),
            bars(
                "p95 latency by endpoint",
                "Where the time goes.",
                [Query(quantile(0.95, _SECONDS, _BRIEF, "path"), "{{path}}")],
                unit="s",
            ),
        ),
        Row(
            bars(
                "Open event streams",
                "Each process takes limits.streams of both together; more get 503 streams_full.",
                [
                    Query("sum(active_sse_connections@)", "Server-Sent Events"),
                    Query("sum(active_websocket_connections@)", "WebSockets"),
                ],
                unit="short",
            ),
            bars(
                "Refused for a limit",
                "Answers 429: requests, jobs or streams of one caller. " + alert("ManyRateLimited"),
                [Query(rate("rate_limited_total"), "429")],
                unit="reqps",
            ),
            bars(
                "nginx: answers from its cache",
                "Share of the requests looked up in it that it had: states of jobs that can change "
                "no more are kept for 5 s. From nginx's log, so only with Loki.",
                [
                    Query(
                        lokis("nginx", '"cache"', 'json cache="cache"', 'cache="HIT"')
                        + " / "
                        + lokis("nginx", '"cache"', 'json cache="cache"', 'cache!=""'),
                        "from the cache",
                        source="loki",
                    )
                ],
                unit="percentunit",
            ),
        ),
        Row(
            logs(
                "Requests that were answered 5xx",
                "From the server's log. http.failed is a fault in the program, whole; "
                "http.unavailable says what was away. The trace of each is a click away.",
                '{service="app"} |~ "http.(failed|unavailable)"',
            ),
        ),
    ],
)
