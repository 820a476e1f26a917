"""Metrics as Prometheus reads them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from downloadd.model import JobStatus
from downloadd.telemetry.metrics import Metrics
from downloadd.telemetry.process import ProcessIoCollector

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
    "active_websocket_connections": set(),
    "s3_operations_total": {"operation", "status"},
    "s3_operation_duration_seconds_bucket": {"operation", "le"},
    "webhook_deliveries_total": {"status"},
    "rate_limited_total": set(),
    "process_resident_memory_bytes": set(),
}
#: What operators see beyond the contract.
MORE = {
    "download_info": {"version"},
    "download_dependency_up": {"dependency"},
    "download_disk_free_bytes": set(),
    "download_disk_size_bytes": set(),
    "download_spool_bytes": set(),
    "download_spool_limit_bytes": set(),
    "download_workers": set(),
    "download_queue_limit": set(),
    "process_disk_read_bytes_total": set(),
    "process_disk_written_bytes_total": set(),
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
    metrics.stored("PutObject", "ok")
    metrics.storage_answered("PutObject", 0.02)
    metrics.describe(version="1", workers=8, queue_limit=100, spool_limit=1000, spool=lambda: 7)
    metrics.look(queue_depth=3, up={"redis": True, "storage": None}, disk=(200, 50))
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.render()[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_names_and_labels_of_the_contract(metrics: Metrics) -> None:
    """Every metric has the name and labels that SPEC §10 gives it, and there are no others."""
    found = {name: {key for key, _ in labels} for name, labels in samples(metrics)}
    known = NAMES | MORE
    assert {name: found.get(name) for name in known} == known
    ours = {name for name in found if not name.startswith(("process_", "python_"))}
    assert {name for name in ours if not name.endswith(("_sum", "_count"))} <= known.keys()


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
    assert value("s3_operation_duration_seconds_sum", operation="PutObject") == 0.02
    assert value("download_queue_depth") == 3
    assert value("download_dependency_up", dependency="redis") == 1
    assert math.isnan(value("download_dependency_up", dependency="storage"))
    assert value("download_spool_bytes") == 7
    assert value("download_info", version="1") == 1
    assert value("process_disk_written_bytes_total") >= 0


def test_what_is_not_known_is_no_number(metrics: Metrics) -> None:
    """What was true a while ago is not told as if it still were."""
    metrics.look(queue_depth=None, up={}, disk=None)
    values = samples(metrics)
    for name in ("queue_depth", "disk_free_bytes", "disk_size_bytes"):
        assert math.isnan(values[f"download_{name}", frozenset()])


def test_known_series_are_there_from_the_start() -> None:
    """Of what begins with 1 Prometheus would not see the first increase."""
    begun = {name: value for name, value in samples(Metrics(roles=["user"])).items() if name[1]}
    for name, label, values in (
        ("downloads_initiated_total", "user_type", ("anonymous", "user")),
        ("downloads_total", "status", ("completed", "failed", "cancelled")),
        ("download_retries_total", "stage", ("fetch", "upload", "storage", "job", "webhook")),
        ("webhook_deliveries_total", "status", ("delivered", "failed", "gone", "exhausted")),
    ):
        assert [begun[name, frozenset({(label, it)})] for it in values] == [0] * len(values)


def test_a_job_that_never_began_took_no_time() -> None:
    """It is counted, and does not make the others look quick."""
    metrics = Metrics()
    metrics.ended(JobStatus.CANCELLED, None)
    values, labels = samples(metrics), frozenset({("status", "cancelled")})
    assert values["downloads_total", labels] == 1
    assert values["download_processing_seconds_count", labels] == 0


def test_roles_that_are_not_set_are_one() -> None:
    """Whatever a token says, there are as many series as roles are set, and one more."""
    metrics = Metrics(roles=["user", "admin"])
    for role in ("user", "anonymous", *(f"role-{number}" for number in range(50))):
        metrics.initiated(role)
    values = {
        dict(labels)["user_type"]: value
        for (name, labels), value in samples(metrics).items()
        if name == "downloads_initiated_total"
    }
    assert values == {"user": 1, "admin": 0, "anonymous": 1, "other": 50}


def test_a_system_that_does_not_tell_of_its_disks(tmp_path: Path) -> None:
    """What is not known is left out."""
    registry = CollectorRegistry()
    ProcessIoCollector(registry=registry, path=tmp_path / "io")
    assert generate_latest(registry) == b""


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
    assert (samples(first)[key], samples(second)[key]) == (1, 0)


def test_media_type() -> None:
    """The answer says which text format it is."""
    assert Metrics().render()[1].startswith("text/plain; version=")
