"""What Prometheus is told (SPEC §10).

``Metrics`` owns its registry, so that two applications in one process do not
share counts. Labels take few values: paths are route templates, codes are
those of ``errors``.
"""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

#: Methods that are counted by name. Callers make up others without end.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Seconds. Jobs take from a moment to the hour that they may take.
_JOB_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_WAIT_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600)
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Every metric of one application. Methods may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._make_http_metrics()
        self._make_job_metrics()
        self._make_file_metrics()

    def _make_http_metrics(self) -> None:
        self.http_requests = Counter(
            "http_requests_total",
            "Requests answered.",
            ("method", "path", "status"),
            registry=self.registry,
        )
        self.http_request_duration = Histogram(
            "http_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ("method", "path"),
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.active_sse_connections = Gauge(
            "active_sse_connections",
            "Event streams that are open.",
            registry=self.registry,
        )
        self.active_websocket_connections = Gauge(
            "active_websocket_connections",
            "WebSockets that are open.",
            registry=self.registry,
        )
        self.rate_limited = Counter(
            "rate_limited_total",
            "Requests refused for a limit of their caller's.",
            registry=self.registry,
        )

    def _make_job_metrics(self) -> None:
        self.downloads_initiated = Counter(
            "downloads_initiated_total",
            "Jobs made.",
            ("user_type",),
            registry=self.registry,
        )
        self.downloads = Counter(
            "downloads_total",
            "Jobs ended.",
            ("status",),
            registry=self.registry,
        )
        self.downloads_active = Gauge(
            "downloads_active",
            "Jobs that this process is working on.",
            registry=self.registry,
        )
        self.download_processing = Histogram(
            "download_processing_seconds",
            "Time from a job's first start to its end.",
            ("status",),
            buckets=_JOB_BUCKETS,
            registry=self.registry,
        )
        self.download_queue_depth = Gauge(
            "download_queue_depth",
            "Jobs that wait, in all processes.",
            registry=self.registry,
        )
        self.download_queue_wait = Histogram(
            "download_queue_wait_seconds",
            "Time that a job waited for a worker.",
            buckets=_WAIT_BUCKETS,
            registry=self.registry,
        )
        self.download_active_workers = Gauge(
            "download_active_workers",
            "Workers of this process that are not idle.",
            registry=self.registry,
        )

    def _make_file_metrics(self) -> None:
        self.download_bytes = Counter(
            "download_bytes_total",
            "Payload bytes from sources (in) and to storage (out).",
            ("direction",),
            registry=self.registry,
        )
        self.download_file_failures = Counter(
            "download_file_failures_total",
            "Files that failed for good.",
            ("code",),
            registry=self.registry,
        )
        self.download_retries = Counter(
            "download_retries_total",
            "Tries after the first.",
            ("stage",),
            registry=self.registry,
        )
        self.webhook_deliveries = Counter(
            "webhook_deliveries_total",
            "Tries to tell of a job's end, by how they went.",
            ("status",),
            registry=self.registry,
        )
        # Asked for with every chunk: the lookup by label is done once.
        self._bytes_by_direction = {
            direction: self.download_bytes.labels(direction) for direction in ("in", "out")
        }

    def requested(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count an answered request; ``path`` is the route's template."""
        method = method if method in _METHODS else "OTHER"
        self.http_requests.labels(method, path, str(status)).inc()
        self.http_request_duration.labels(method, path).observe(seconds)

    def initiated(self, user_type: str) -> None:
        """Count a job that was made, by the kind of caller: a role, or "anonymous"."""
        self.downloads_initiated.labels(user_type).inc()

    def started(self, waited: float) -> None:
        """Note how many seconds a job waited for a worker."""
        self.download_queue_wait.observe(waited)

    def ended(self, status: str, seconds: float) -> None:
        """Count a job that ended, and the seconds it took."""
        self.downloads.labels(status).inc()
        self.download_processing.labels(status).observe(seconds)

    def transferred(self, direction: str, size: int) -> None:
        """Count payload bytes, "in" from a source or "out" to storage."""
        self._bytes_by_direction[direction].inc(size)

    def file_failed(self, code: str) -> None:
        """Count a file that failed for good, by its error's ``code``."""
        self.download_file_failures.labels(code).inc()

    def retried(self, stage: str) -> None:
        """Count a try after the first, by what was tried: "fetch", "upload"."""
        self.download_retries.labels(stage).inc()

    def called_back(self, status: str) -> None:
        """Count a try to deliver a message: "delivered", "failed", "gone", "exhausted", …"""
        self.webhook_deliveries.labels(status).inc()

    def render(self) -> tuple[bytes, str]:
        """Return the exposition text and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
