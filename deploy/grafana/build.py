"""Writes the three dashboards: python deploy/grafana/build.py.

What the design documents draw as "API Overview", "Download Jobs" and
"Infrastructure". Here stands what is shown; how a panel is written down in
Grafana's JSON stands in ``panels.py``. Tests compare the files with this, and
every query with the metrics that the server has.

In queries ``@`` is the selector of the processes that are looked at, and
``@{…}`` the same with more in it.
"""

from __future__ import annotations

from pathlib import Path

from panels import (
    Dashboard,
    Query,
    Row,
    alert,
    bars,
    colours,
    document,
    heatmap,
    logs,
    lokis,
    stat,
    table,
)

FOLDER = Path(__file__).parent / "dashboards"

# --- API overview ------------------------------------------------------------------

_V1 = 'path=~"/v1/.*"'
#: Event streams last as long as their jobs, archives as long as their readers.
_BRIEF = (
    f'{_V1}, path!~"/v1/(download/(subscribe|stream)/.*|download/(start|check)'
    '|export/.*/progress|files/.*)"'
)
_SECONDS = "http_request_duration_seconds"


def _quantile(share: float, metric: str, labels: str = "", by: str = "") -> str:
    names = ", ".join(filter(None, ("le", by)))
    within = f"@{{{labels}}}" if labels else "@"
    return (
        f"histogram_quantile({share}, sum by ({names}) "
        f"(rate({metric}_bucket{within}[$__rate_interval])))"
    )


def _percentiles(metric: str, labels: str = "") -> list[Query]:
    return [Query(_quantile(it / 100, metric, labels), f"p{it}") for it in (50, 95, 99)]


def _rate(metric: str, labels: str = "", by: str = "") -> str:
    within = f"@{{{labels}}}" if labels else "@"
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{within}[$__rate_interval]))"


def _share(metric: str, part: str, whole: str = "") -> str:
    return f"{_rate(metric, part)} / {_rate(metric, whole)}"


API = Dashboard(
    uid="downloadd-api",
    title="downloadd: API overview",
    about="Requests: how many, how they were answered, and how fast.",
    rows=[
        Row(
            stat(
                "Request rate",
                "Requests a minute, of all addresses but health checks and metrics.",
                [Query(f"{_rate('http_requests_total', _V1)} * 60")],
                unit="reqpm",
            ),
            stat(
                "Error rate",
                "Share of the API's requests that were answered 5xx. " + alert("ServerErrors"),
                [Query(_share("http_requests_total", f'{_V1}, status=~"5.."', _V1))],
                unit="percentunit",
                steps=colours(0.01, 0.05),
                empty="0",
            ),
            stat(
                "p99 latency",
                "99 of 100 requests were answered within this time; without event streams, "
                "archives, start and check, which are slow by design. " + alert("SlowResponses"),
                [Query(_quantile(0.99, _SECONDS, _BRIEF))],
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
                [Query(_rate("http_requests_total", by="path"), "{{path}}")],
                unit="reqps",
            ),
            bars(
                "Requests by status",
                "429: a limit of the caller's. 499: the client went away. "
                + alert("ManyRateLimited"),
                [Query(_rate("http_requests_total", by="status"), "{{status}}")],
                unit="reqps",
            ),
        ),
        Row(
            bars(
                "Latency",
                "Without what is slow by design. The mean is what SlowResponses looks at.",
                [
                    *_percentiles(_SECONDS, _BRIEF),
                    Query(
                        f"{_rate(f'{_SECONDS}_sum', _BRIEF)}"
                        f" / {_rate(f'{_SECONDS}_count', _BRIEF)}",
                        "mean",
                    ),
                ],
                unit="s",
            ),
            bars(
                "p95 latency by endpoint",
                "Where the time goes.",
                [Query(_quantile(0.95, _SECONDS, _BRIEF, "path"), "{{path}}")],
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
                [Query(_rate("rate_limited_total"), "429")],
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

# --- download jobs -----------------------------------------------------------------

_JOB_SECONDS = "download_processing_seconds"
_SIZES = (
    ("below 1 MB", "size < 1000000"),
    ("1 to 10 MB", "size >= 1000000 and size < 10000000"),
    ("10 to 100 MB", "size >= 10000000 and size < 100000000"),
    ("0.1 to 1 GB", "size >= 100000000 and size < 1000000000"),
    ("1 GB and more", "size >= 1000000000"),
)


def _by_size(filtered: str) -> str:
    return (
        'quantile_over_time(0.5, {service="app"} |= "job.completed"'
        ' | json event="message", size="bytes", took="seconds"'
        f' | event="job.completed" | {filtered}'
        ' | unwrap took | __error__="" [$__range]) by ()'
    )


JOBS = Dashboard(
    uid="downloadd-jobs",
    title="downloadd: download jobs",
    about="Jobs: how many wait, how long they take, and why they fail.",
    rows=[
        Row(
            stat(
                "Queue depth",
                "Jobs that wait, in all processes; nothing while Redis does not say. "
                + alert("HighQueueDepth", "QueueFull"),
                [Query("max(download_queue_depth@)")],
                unit="short",
                steps=colours(500, 1000),
            ),
            stat(
                "Processing",
                "Jobs that are worked on now. " + alert("NoActiveWorkers"),
                [Query("sum(downloads_active@)")],
                unit="short",
            ),
            stat(
                "Success rate",
                "Completed of those that completed or failed, in the time that is shown. "
                + alert("HighFailureRate"),
                [
                    Query(
                        'sum(increase(downloads_total@{status="completed"}[$__range]))'
                        ' / sum(increase(downloads_total@{status=~"completed|failed"}[$__range]))'
                    )
                ],
                unit="percentunit",
                steps=[("red", None), ("orange", 0.9), ("green", 0.99)],
            ),
            stat(
                "Workers that are busy",
                "Of jobs.concurrency in all processes.",
                [Query("sum(download_active_workers@) / sum(download_workers@)")],
                unit="percentunit",
            ),
            height=4,
        ),
        Row(
            bars(
                "Job processing time by file size",
                "Half of the jobs that fetched so many bytes were completed within this time, "
                "over the time that is shown. From the lines job.completed, so only with Loki.",
                [
                    Query(_by_size(filtered), name, source="loki", instant=True)
                    for name, filtered in _SIZES
                ],
                unit="s",
                kind="bargauge",
            ),
        ),
        Row(
            bars(
                "Queue depth",
                "One queue for all processes. At the limit new jobs get 503 queue_full.",
                [
                    Query("max(download_queue_depth@)", "jobs that wait"),
                    Query("min(download_queue_limit@)", "limit"),
                ],
                unit="short",
            ),
            bars(
                "Wait",
                "Time that jobs waited for a worker.",
                _percentiles("download_queue_wait_seconds"),
                unit="s",
            ),
        ),
        Row(
            bars(
                "Processing time",
                "From a job's first start to its end, of completed ones. "
                + alert("SlowProcessing"),
                _percentiles(_JOB_SECONDS, 'status="completed"'),
                unit="s",
            ),
            bars(
                "Jobs that ended",
                "By how. " + alert("HighFailureRate"),
                [Query(f"{_rate('downloads_total', by='status')} * 60", "{{status}}")],
                unit="cpm",
            ),
        ),
        Row(
            bars(
                "Jobs made, by kind of user",
                "By role; “anonymous” has none. Who makes the most is in the table below.",
                [
                    Query(
                        f"{_rate('downloads_initiated_total', by='user_type')} * 60",
                        "{{user_type}}",
                    )
                ],
                unit="cpm",
            ),
            bars(
                "Workers",
                "Each process works on jobs.concurrency jobs at once.",
                [
                    Query("sum by (instance) (download_active_workers@)", "{{instance}}"),
                    Query("sum(download_workers@)", "all there are"),
                ],
                unit="short",
            ),
        ),
        Row(
            bars(
                "Files that failed, by code",
                "For good, after all tries. Each code has its entry in docs/operations.md.",
                [Query(f"{_rate('download_file_failures_total', by='code')} * 60", "{{code}}")],
                unit="cpm",
            ),
            bars(
                "Tries after the first",
                "Of fetches, of requests to the storage, of whole jobs, of webhooks.",
                [Query(f"{_rate('download_retries_total', by='stage')} * 60", "{{stage}}")],
                unit="cpm",
            ),
            bars(
                "Bytes",
                "From sources (in) and to the storage (out).",
                [Query(_rate("download_bytes_total", by="direction"), "{{direction}}")],
                unit="Bps",
            ),
        ),
        Row(
            table(
                "Users who made the most requests for jobs",
                "Requests to the calls that make jobs, by user, in the time that is shown. From "
                "the server's log, so only with Loki; anonymous callers count as one.",
                Query(
                    'topk(10, sum by (userId) (count_over_time({service="app"}'
                    ' |= "http.request" | json event="message", userId="userId", method="method",'
                    ' path="path" | event="http.request" | method="POST"'
                    ' | path=~"/v1/(download/(initiate|start)|export)" | __error__=""'
                    " [$__range])))",
                    source="loki",
                    instant=True,
                ),
            ),
            logs(
                "Jobs that failed, and why",
                "From the server's log: the code and the sentence that the caller is told.",
                '{service="app"} |= "job.failed"',
            ),
        ),
    ],
)

# --- infrastructure ----------------------------------------------------------------

INFRASTRUCTURE = Dashboard(
    uid="downloadd-infrastructure",
    title="downloadd: infrastructure",
    about="What the processes take, and what they depend on.",
    rows=[
        Row(
            stat(
                "Storage",
                "Whether the object storage is there, by the process that is worst off. "
                + alert("StorageAway"),
                [Query('min(download_dependency_up@{dependency="storage"})')],
                unit="short",
                words=("away", "up"),
            ),
            stat(
                "Redis",
                "Whether Redis (Valkey) is there and takes writes. " + alert("RedisAway"),
                [Query('min(download_dependency_up@{dependency="redis"})')],
                unit="short",
                words=("away", "up"),
            ),
            stat(
                "CPU usage",
                "Of all processes together; 100 % is one core.",
                [Query(_rate("process_cpu_seconds_total"))],
                unit="percentunit",
            ),
            stat(
                "Memory usage",
                "Of the process that takes the most. " + alert("MemoryHigh"),
                [Query("max(process_resident_memory_bytes@)")],
                unit="bytes",
                steps=colours(256 * 2**20, 384 * 2**20),
            ),
            stat(
                "Disk I/O",
                "Bytes a second that all processes read from disks and write to them.",
                [
                    Query(
                        f"{_rate('process_disk_read_bytes_total')}"
                        f" + {_rate('process_disk_written_bytes_total')}"
                    )
                ],
                unit="Bps",
            ),
            stat(
                "Disk free",
                "Of the file system under the data folder. " + alert("DiskNearlyFull"),
                [Query("min(download_disk_free_bytes@ / download_disk_size_bytes@)")],
                unit="percentunit",
                steps=[("red", None), ("orange", 0.03), ("green", 0.1)],
            ),
            height=4,
        ),
        Row(
            bars(
                "CPU usage",
                "Of each process; 100 % is one core.",
                [Query(_rate("process_cpu_seconds_total", by="instance"), "{{instance}}")],
                unit="percentunit",
            ),
            bars(
                "Memory usage",
                "Of each process. " + alert("MemoryHigh"),
                [Query("process_resident_memory_bytes@", "{{instance}}")],
                unit="bytes",
            ),
            bars(
                "Disk I/O",
                "Of each process, without what the page cache holds.",
                [
                    Query(
                        _rate("process_disk_read_bytes_total", by="instance"), "{{instance}} read"
                    ),
                    Query(
                        _rate("process_disk_written_bytes_total", by="instance"),
                        "{{instance}} written",
                    ),
                ],
                unit="Bps",
            ),
        ),
        Row(
            bars(
                "Disk free",
                "Of the file system under the data folder. " + alert("DiskNearlyFull"),
                [
                    Query("min(download_disk_free_bytes@)", "free"),
                    Query("max(download_disk_size_bytes@)", "size"),
                ],
                unit="bytes",
            ),
            bars(
                "Temporary files",
                "Of jobs in flight, and what failed ones keep for a retry. At the limit fetching "
                "waits. " + alert("SpoolNearlyFull"),
                [
                    Query("download_spool_bytes@", "{{instance}}"),
                    Query("max(download_spool_limit_bytes@)", "limit of each"),
                ],
                unit="bytes",
            ),
            bars(
                "Open files and connections",
                "Of each process, and how many it may have.",
                [
                    Query("process_open_fds@", "{{instance}}"),
                    Query("min(process_max_fds@)", "limit of each"),
                ],
                unit="short",
            ),
        ),
        Row(
            bars(
                "S3 operations",
                "By what was asked. None where archives lie in a local folder.",
                [Query(_rate("s3_operations_total", by="operation"), "{{operation}}")],
                unit="reqps",
            ),
            bars(
                "S3 errors",
                "By code, each explained in docs/operations.md; object_missing and "
                "upload_missing are none. " + alert("StorageErrors"),
                [
                    Query(
                        _rate("s3_operations_total", 'status!~"ok|cancelled"', "operation, status"),
                        "{{operation}} {{status}}",
                    )
                ],
                unit="reqps",
            ),
            bars(
                "S3 latency, p95",
                "From a request, with the bytes that it sends, to the head of its answer.",
                [
                    Query(
                        _quantile(0.95, "s3_operation_duration_seconds", by="operation"),
                        "{{operation}}",
                    )
                ],
                unit="s",
            ),
        ),
        Row(
            bars(
                "Webhooks",
                "Calls by how they went: failed ones are tried again, “exhausted” was the last "
                "try, “gone” is a receiver that wants no more. " + alert("WebhooksFailing"),
                [Query(f"{_rate('webhook_deliveries_total', by='status')} * 60", "{{status}}")],
                unit="cpm",
            ),
            bars(
                "Storage and Redis, as each process sees them",
                "1 is there, 0 is away. " + alert("StorageAway", "RedisAway"),
                [Query("download_dependency_up@", "{{instance}} {{dependency}}")],
                unit="short",
            ),
            table(
                "Processes",
                "Which version runs where, and since when (in the browser's time).",
                Query(
                    "download_info@ * on (instance) group_left process_start_time_seconds@ * 1000",
                    instant=True,
                ),
                unit="dateTimeAsLocal",
            ),
        ),
        Row(
            logs(
                "Warnings and errors of all services",
                "Of those that say a level: the server and nginx.",
                '{level=~"warning|error|critical"}',
            ),
        ),
    ],
)

DASHBOARDS = (API, JOBS, INFRASTRUCTURE)


def main() -> None:
    """Write every dashboard."""
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(document(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
