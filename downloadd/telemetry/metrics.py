"""What Prometheus is told (SPEC §10).

``Metrics`` owns its registry, so that two applications in one process do not
share counts. Labels take few values: paths are route templates, codes are
those of ``errors``. Where all values of a label are known they are there from
the start, at 0: of a series that begins with its first event Prometheus sees
no increase.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from downloadd.telemetry.process import ProcessIoCollector

# Prometheus takes no times of creation from its text format; each would be one more series.
disable_created_metrics()  # type: ignore[no-untyped-call]

#: Methods that are counted by name. Callers make up others without end.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Seconds. Jobs take from a moment to the hour that they may take.
_JOB_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_WAIT_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600)
# Each is a series for every route, and two thirds of what a scrape takes.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 10, 30)
_S3_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

#: The label of everything that no route matches.
UNMATCHED = "unmatched"
#: Whoever has no role, and whoever has one that is not set; nobody should be the other.
_NOBODY, _OTHER = "anonymous", "other"
#: The ends of jobs. That an archive's time is over ends nothing: it was counted as completed.
_ENDS = ("completed", "failed", "cancelled")
#: What is tried again: a file's fetch, a request that stores, any other to the storage, a job
#: that trouble has stopped, a job whose caller asks for it, a webhook.
_STAGES = ("fetch", "upload", "storage", "job", "caller", "webhook")
_ANSWERS = ("delivered", "failed", "gone", "exhausted", "undeliverable")


class Metrics:
    """Every metric of one application. Methods may be called from any thread."""

    def __init__(self, *, roles: Iterable[str] = ()) -> None:
        """``roles``: those that callers may have, besides "anonymous"."""
        self.registry = CollectorRegistry()
        self._user_types = frozenset({_NOBODY, *roles})
        ProcessCollector(registry=self.registry)
        ProcessIoCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._make_http_metrics()
        self._make_job_metrics()
        self._make_file_metrics()
        self._make_storage_metrics()
        self._make_site_metrics()
        self._begin()

    def _make_http_metrics(self) -> None:
        self.http_requests = Counter(
            "http_requests_total",
            "Requests answered, refused ones among them.",
            ("method", "path", "status"),
            registry=self.registry,
        )
        self.http_request_duration = Histogram(
            "http_request_duration_seconds",
            "Time from a request's head to the end of its answer; of event streams, how long "
            "they were open.",
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
            "Jobs made, by the role of who asked; a request for a job that is there makes none.",
            ("user_type",),
            registry=self.registry,
        )
        self.downloads = Counter(
            "downloads_total",
            "Jobs ended: completed, failed or cancelled, those among them that never began. "
            "A job that is retried may end again; an archive that expires is no end.",
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
            "Time from a job's first start to its end, for those that began.",
            ("status",),
            buckets=_JOB_BUCKETS,
            registry=self.registry,
        )
        self.download_queue_depth = Gauge(
            "download_queue_depth",
            "Jobs that wait, in all processes; NaN while Redis does not say.",
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
            "Tries after the first: of a fetch; of a request to the storage that is part of an "
            "upload, or another one (storage); of a job that trouble has stopped (job), or "
            "whose caller asked for it (caller); of a webhook.",
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

    def _make_storage_metrics(self) -> None:
        self.s3_operations = Counter(
            "s3_operations_total",
            "Requests to S3, repeated ones among them, by the API's name for them: ok, "
            "cancelled (no longer wanted), or the code of the error. None where archives lie in "
            "a local folder; see download_dependency_up there.",
            ("operation", "status"),
            registry=self.registry,
        )
        self.s3_operation_duration = Histogram(
            "s3_operation_duration_seconds",
            "Time from a request to S3, with the bytes that it sends, to the head of its answer.",
            ("operation",),
            buckets=_S3_BUCKETS,
            registry=self.registry,
        )

    def _make_site_metrics(self) -> None:
        def gauge(name: str, meaning: str, labels: Iterable[str] = ()) -> Gauge:
            return Gauge(name, meaning, labels, registry=self.registry)

        self.info = Info("download", "Which downloadd this is.", registry=self.registry)
        self.dependency_up = gauge(
            "download_dependency_up",
            "Whether it was there when it was looked at last (1 or 0); NaN where that is long ago.",
            ("dependency",),
        )
        self.disk_free = gauge(
            "download_disk_free_bytes",
            "Room on the file system of the data folder for who is not root.",
        )
        self.disk_size = gauge(
            "download_disk_size_bytes", "Size of the file system of the data folder."
        )
        self.spool = gauge(
            "download_spool_bytes",
            "Temporary disk that jobs of this process have reserved or left behind.",
        )
        self.spool_limit = gauge(
            "download_spool_limit_bytes", "Where fetching waits for temporary disk."
        )
        self.workers = gauge("download_workers", "Jobs that this process works on at most.")
        self.queue_limit = gauge(
            "download_queue_limit", "Jobs that may wait, in all processes; more are refused."
        )

    def _begin(self) -> None:
        """Let the series be there whose labels are known."""
        known: tuple[tuple[Counter | Histogram, Iterable[str]], ...] = (
            (self.downloads_initiated, self._user_types),
            (self.downloads, _ENDS),
            (self.download_processing, _ENDS),
            (self.download_retries, _STAGES),
            (self.webhook_deliveries, _ANSWERS),
        )
        for metric, values in known:
            for value in values:
                metric.labels(value)

    def requested(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count an answered request; ``path`` is the route's template."""
        method = method if method in _METHODS else "OTHER"
        self.http_requests.labels(method, path, str(status)).inc()
        self.http_request_duration.labels(method, path).observe(seconds)

    def refused(self, method: str, status: int) -> None:
        """Count a request that was answered before anybody could tell what it is for."""
        method = method if method in _METHODS else "OTHER"
        self.http_requests.labels(method, UNMATCHED, str(status)).inc()

    def initiated(self, user_type: str) -> None:
        """Count a job that was made, by the kind of caller: a role, or "anonymous"."""
        known = user_type if user_type in self._user_types else _OTHER
        self.downloads_initiated.labels(known).inc()

    def started(self, waited: float) -> None:
        """Note how many seconds a job waited for a worker."""
        self.download_queue_wait.observe(waited)

    def ended(self, status: str, seconds: float | None) -> None:
        """Count a job that ended, and the seconds it took; None where it never began."""
        self.downloads.labels(status).inc()
        if seconds is not None:
            self.download_processing.labels(status).observe(seconds)

    def transferred(self, direction: str, size: int) -> None:
        """Count payload bytes, "in" from a source or "out" to storage."""
        self._bytes_by_direction[direction].inc(size)

    def file_failed(self, code: str) -> None:
        """Count a file that failed for good, by its error's ``code``."""
        self.download_file_failures.labels(code).inc()

    def retried(self, stage: str) -> None:
        """Count a try after the first; ``stage`` is one of ``_STAGES``."""
        self.download_retries.labels(stage).inc()

    def called_back(self, status: str) -> None:
        """Count a try to deliver a message: "delivered", "failed", "gone", "exhausted", …"""
        self.webhook_deliveries.labels(status).inc()

    def stored(self, operation: str, status: str) -> None:
        """Count a request to S3 by the API's name for it: "ok", or its error's code."""
        self.s3_operations.labels(operation, status).inc()

    def storage_answered(self, operation: str, seconds: float) -> None:
        """Note how long a request to S3 took."""
        self.s3_operation_duration.labels(operation).observe(seconds)

    def describe(
        self,
        *,
        version: str,
        workers: int,
        queue_limit: int,
        spool_limit: int,
        spool: Callable[[], float],
    ) -> None:
        """Say what this process is; ``spool`` is asked for its bytes whenever it is rendered."""
        self.info.info({"version": version})
        self.workers.set(workers)
        self.queue_limit.set(queue_limit)
        self.spool_limit.set(spool_limit)
        self.spool.set_function(spool)

    def look(
        self,
        *,
        queue_depth: int | None,
        up: Mapping[str, bool | None],
        disk: tuple[int, int] | None,
    ) -> None:
        """Set what has to be asked for; ``disk`` is size and room. None: it is not known now."""
        self.download_queue_depth.set(math.nan if queue_depth is None else queue_depth)
        for name, well in up.items():
            self.dependency_up.labels(name).set(math.nan if well is None else well)
        size, free = disk or (math.nan, math.nan)
        self.disk_size.set(size)
        self.disk_free.set(free)

    def render(self) -> tuple[bytes, str]:
        """Return the exposition text and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
