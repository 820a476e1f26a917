"""The way of a log line: from the server through Docker's file and Alloy to Loki."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
import yaml

from downloadd.telemetry import logs
from tests.deploy import alloy
from tests.deploy.rules import ROOT

CONFIG = alloy.read((ROOT / "deploy/alloy/config.alloy").read_text())
STAGES = next(it for it in CONFIG.blocks if it.name == "loki.process").blocks

TIME = "2026-11-22T02:13:57.010123456Z"
TRACE, REQUEST = "4bf92f3577b34da6a3ce929d0e0e4736", "r-1"
JOB = "a2bb029d-b991-44eb-8c33-08557f49d8b4"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(False)
    root.handlers, root.level = handlers, level


def through(line: str, tag: str = "downloadd/downloadd-app-1") -> alloy.Entry | None:
    """What becomes of a line that a container writes to its standard error."""
    envelope = {"log": line + "\n", "stream": "stderr", "attrs": {"tag": tag}, "time": TIME}
    labels = {"job": "docker", "filename": "/var/lib/docker/containers/0f/0f-json.log"}
    return alloy.process(STAGES, json.dumps(envelope), labels)


def ours(level: str = "info", message: str = "job.completed") -> str:
    """A line as the server writes it while it works on a job."""
    stream = io.StringIO()
    logs.configure(level="debug", log_format="json", stream=stream)
    structlog.contextvars.bind_contextvars(
        traceId=TRACE, spanId="00f067aa0ba902b7", requestId=REQUEST, jobId=JOB, userId="u-1"
    )
    getattr(structlog.get_logger(), level)(message, seconds=1.5, bytes=234)
    return stream.getvalue().rstrip("\n")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_line_of_the_server(level: str) -> None:
    """It arrives as it was written, by its level, and is found by its trace, request and job."""
    line = ours(level)
    entry = through(line)
    assert entry is not None
    assert entry.line == line + "\n"
    assert entry.labels == {
        "service": "app",
        "container": "downloadd-app-1",
        "stream": "stderr",
        "level": level,
    }
    assert entry.metadata == {
        "traceId": TRACE,
        "spanId": "00f067aa0ba902b7",
        "requestId": REQUEST,
        "jobId": JOB,
    }
    assert entry.timestamp == TIME


def test_what_is_not_of_a_request_or_a_job_has_no_ids() -> None:
    stream = io.StringIO()
    logs.configure(log_format="json", stream=stream)
    structlog.get_logger().info("server.stopped")
    entry = through(stream.getvalue().rstrip("\n"))
    assert entry is not None
    assert entry.labels["level"] == "info"
    assert entry.metadata == {}


@pytest.mark.parametrize(
    "line",
    [
        "1:M 22 Nov 2026 02:13:57.010 * Ready to accept connections tcp",
        "Traceback (most recent call last):",
        "",
        "{not json",
        '"a string"',
        "[1, 2]",
        '{"level": {"deep": 1}, "traceId": null}',
    ],
)
def test_a_line_of_any_other_form_arrives_too(line: str) -> None:
    """Without level or ids, but whole: nothing is dropped for what it looks like."""
    entry = through(line, "downloadd/downloadd-valkey-1")
    assert entry is not None
    assert entry.line == line + "\n"
    assert entry.labels == {
        "service": "valkey",
        "container": "downloadd-valkey-1",
        "stream": "stderr",
    }
    assert entry.metadata == {}


def test_a_program_cannot_make_labels_without_end() -> None:
    """Each value of a label is a stream of its own to Loki."""
    for level in ("INFO", "info ", "an info", "x" * 1000, "information", JOB):
        entry = through(json.dumps({"level": level, "message": "m"}))
        assert entry is not None
        assert "level" not in entry.labels
    labels = next(it for it in STAGES if it.name == "stage.label_drop").attributes["values"]
    assert set(labels) == {"filename", "job"}


@pytest.mark.parametrize(
    ("tag", "service"),
    [
        ("downloadd-app-1", "app"),
        ("downloadd-app-12", "app"),
        ("my-shop-app-3", "app"),
        ("downloadd_nginx_1", "nginx"),
        ("downloadd-minio-1", "minio"),
        ("downloadd-minio-setup-1", "minio-setup"),
        ("downloadd-alloy-1", "alloy"),
    ],
)
def test_services_have_their_names_whatever_the_project_is_called(tag: str, service: str) -> None:
    entry = through("text", f"downloadd/{tag}")
    assert entry is not None
    assert entry.labels["service"] == service
    assert entry.labels["container"] == tag


@pytest.mark.parametrize(
    "tag",
    [
        *("postgres", "shop-database-1", "app", "downloadd-app", "app-1-x"),
        # Of other projects that call their services as we do, or are called as we are.
        *("shop-app-1", "wordpress-nginx-1", "downloadd-app-1", "shop/downloadd-app-1"),
        *("my-downloadd/shop-app-1", "downloadd/app", "downloadd/shop-database-1"),
    ],
)
def test_other_containers_are_left_alone(tag: str) -> None:
    """Their logs may hold what nobody here should see."""
    assert through("secret", tag) is None


def test_a_container_without_a_tag_is_left_alone() -> None:
    """As Docker writes where no tag is asked for."""
    line = json.dumps({"log": "secret\n", "stream": "stdout", "time": TIME})
    assert alloy.process(STAGES, line, {"job": "docker", "filename": "f"}) is None


def test_the_ways_between_the_parts_are_joined() -> None:
    """Each part sends to one that is there, and the last one to Loki's own port and path."""
    named = {f"{it.name}.{it.label}": it for it in CONFIG.blocks}
    source = named["loki.source.file.containers"].attributes
    assert source["targets"].removesuffix(".targets") in named
    for name in ("loki.source.file.containers", "loki.process.lines"):
        (receiver,) = named[name].attributes["forward_to"]
        assert receiver.removesuffix(".receiver") in named
    (endpoint,) = named["loki.write.loki"].blocks
    port = loki()["server"]["http_listen_port"]
    assert endpoint.attributes["url"] == f"http://loki:{port}/loki/api/v1/push"
    (target,) = named["local.file_match.containers"].attributes["path_targets"]
    assert target == {
        "__path__": "/var/lib/docker/containers/*/*-json.log",
        "job": "docker",
    }


# --- Loki --------------------------------------------------------------------------


def loki() -> dict[str, dict[str, object]]:
    return yaml.safe_load((ROOT / "deploy/loki/loki.yml").read_text())


def test_loki_keeps_a_week_and_removes_what_is_older() -> None:
    """Without its switch nothing is ever removed, and without its store Loki 3 does not start."""
    limits, compactor = loki()["limits_config"], loki()["compactor"]
    assert limits["retention_period"] == "168h"
    assert compactor["retention_enabled"] is True
    assert compactor["delete_request_store"] == "filesystem"


def test_loki_has_what_structured_metadata_needs() -> None:
    (schema,) = loki()["schema_config"]["configs"]
    assert (schema["store"], schema["schema"]) == ("tsdb", "v13")
    # Retention needs an index for each day.
    assert schema["index"]["period"] == "24h"
    assert loki()["limits_config"]["allow_structured_metadata"] is True


def test_loki_writes_below_one_folder_and_tells_nobody() -> None:
    """Its root file system is read-only but for the volume."""
    text = (ROOT / "deploy/loki/loki.yml").read_text()
    paths = {
        word
        for line in text.splitlines()
        if not line.lstrip().startswith("#")
        for word in line.split()
        if word.startswith("/")
    }
    assert paths
    assert all(path == "/loki" or path.startswith("/loki/") for path in paths)
    assert loki()["analytics"] == {"reporting_enabled": False}
    # Names of Loki 2 that stop Loki 3 at the start.
    for gone in ("shared_store", "boltdb", "table_manager", "max_look_back_period"):
        assert gone not in text
