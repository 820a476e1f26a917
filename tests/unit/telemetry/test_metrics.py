"""Metrics as Prometheus reads them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from downloadd.model import JobStatus
from downloadd.telemetry.metrics import Metrics

NAMES = {
    "http_requests_total": {"method", "path", "status"},
    "http_request_duration_seconds_bucket": {"method", "path", "le"},
    "downloads_initiated_total": {"user_type"},
    "downloads_total": {"status"},
    "downloads_active": set(),
    "download_processing_seconds_bucket": {"status", "le"},
    "download_queue_depth": set(),
    "download_queue_wait_seconds_bucket": {"le"},
    "download_active_workers": set(),
    "download_bytes_total": {"direction"},
    "download_file_failures_total": {"code"},
    "download_retries_total": {"stage"},
    "active_sse_connections": set(),
    "process_resident_memory_bytes": set(),
}


@pytest.fixture
def metrics() -> Metrics:
    """Metrics on which each event has happened once."""
    metrics = Metrics()
    metrics.requested("GET", "/v1/download/status/{jobId}", 200, 0.003)
    metrics.initiated("anonymous")
    metrics.started(0.2)
    metrics.ended(JobStatus.COMPLETED, 12.5)
    metrics.transferred("in", 1000)
    metrics.transferred("out", 500)
    metrics.file_failed("source_refused")
    metrics.retried("fetch")
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.render()[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_names_and_labels_of_the_contract(metrics: Metrics) -> None:
    """Every metric that exists so far has the name and labels that SPEC §10 gives it."""
    found = {name: {key for key, _ in labels} for name, labels in samples(metrics)}
    assert {name: found.get(name) for name in NAMES} == NAMES


def test_values(metrics: Metrics) -> None:
    """Each event counts where it belongs; statuses are words, not Python's names for them."""
    values = samples(metrics)

    def value(name: str, **labels: str) -> float:
        return values[name, frozenset(labels.items())]

    path = "/v1/download/status/{jobId}"
    assert value("http_requests_total", method="GET", path=path, status="200") == 1
    assert value("downloads_total", status="completed") == 1
    assert value("download_processing_seconds_sum", status="completed") == 12.5
    assert value("download_bytes_total", direction="in") == 1000
    assert value("download_bytes_total", direction="out") == 500
    assert value("download_queue_wait_seconds_sum") == 0.2


def test_made_up_methods_are_one(metrics: Metrics) -> None:
    """A caller cannot make series without end by inventing methods."""
    for number in range(50):
        metrics.requested(f"X{number}", "/", 405, 0.001)
    methods = {dict(labels)["method"] for name, labels in samples(metrics) if "requests_" in name}
    assert methods == {"GET", "OTHER"}


def test_two_applications_count_apart() -> None:
    """Each instance has counts of its own."""
    first, second = Metrics(), Metrics()
    first.retried("fetch")
    key = ("download_retries_total", frozenset({("stage", "fetch")}))
    assert key in samples(first)
    assert key not in samples(second)


def test_media_type() -> None:
    """The answer says which text format it is."""
    assert Metrics().render()[1].startswith("text/plain; version=")
