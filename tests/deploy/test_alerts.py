"""Each alert: when it fires, and when it does not, by promtool's own simulation."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.deploy import rules
from tests.deploy.rules import Case, Firing
from tests.tools import require_tool

WARNING = "warning"


def one(name: str, labels: str = "", *, replica: str = "a") -> str:
    """A series of a process."""
    inside = f'job="downloadd", instance="{replica}"' + (f", {labels}" if labels else "")
    return f"{name}{{{inside}}}"


def at(replica: str) -> Mapping[str, str]:
    return {"job": "downloadd", "instance": replica}


def dependency(name: str, *, replica: str = "a") -> str:
    return one("download_dependency_up", f'dependency="{name}"', replica=replica)


def requests(status: str, path: str = "/v1/download/initiate", *, replica: str = "a") -> str:
    return one(
        "http_requests_total",
        f'method="POST", path="{path}", status="{status}"',
        replica=replica,
    )


def took(path: str, part: str) -> str:
    return one(f"http_request_duration_seconds_{part}", f'method="GET", path="{path}"')


def ended(status: str, *, replica: str = "a") -> str:
    return one("downloads_total", f'status="{status}"', replica=replica)


def within(le: str) -> str:
    return one("download_processing_seconds_bucket", f'status="completed", le="{le}"')


def webhooks(status: str) -> str:
    return one("webhook_deliveries_total", f'status="{status}"')


def stored(status: str) -> str:
    return one("s3_operations_total", f'operation="UploadPart", status="{status}"')


UP, UP_TOO = one("up"), one("up", replica="b")
DEPTH, DEPTH_TOO = one("download_queue_depth"), one("download_queue_depth", replica="b")
LIMIT = one("download_queue_limit")
BUSY, BUSY_TOO = one("download_active_workers"), one("download_active_workers", replica="b")
FREE, SIZE = one("download_disk_free_bytes"), one("download_disk_size_bytes")
SPOOL, ROOM = one("download_spool_bytes"), one("download_spool_limit_bytes")
MEMORY = one("process_resident_memory_bytes")
REFUSED = one("rate_limited_total")
COUNT = one("download_processing_seconds_count", 'status="completed"')
STATUS = "/v1/download/status/{job_id}"
STREAM = "/v1/download/subscribe/{job_id}"

MIB = 1024 * 1024

CASES: Mapping[str, Sequence[Case]] = {
    "DownloaddDown": [
        Case("all is well", {UP: "1+0x40", UP_TOO: "1+0x40"}, "10m"),
        Case("not for a restart", {UP: "1+0x20 0 0 0 1+0x20"}, "5m45s"),
        Case("it hangs", {UP: "1+0x20 0+0x20"}, "6m30s", [Firing()]),
        Case("and so do all", {UP: "0+0x40", UP_TOO: "0+0x40"}, "8m", [Firing()]),
        Case("its name is unknown", {}, "2m", [Firing(labels={"job": "downloadd"})]),
        Case(
            "it ended, and its name is unknown since",
            {UP: "1+0x20 stale _x20"},
            "7m",
            [Firing(labels={"job": "downloadd"})],
        ),
        Case(
            "one of two",
            {UP: "1+0x60", UP_TOO: "1+0x10 0+0x50"},
            "8m",
            [Firing(["b"], WARNING, at("b"))],
        ),
        Case("one of two, for a moment", {UP: "1+0x60", UP_TOO: "1+0x10 0+0x50"}, "7m"),
    ],
    "StorageAway": [
        Case("it is there", {dependency("storage"): "1+0x40"}, "10m"),
        Case("nobody has looked", {dependency("storage"): "NaN+0x40"}, "10m"),
        Case("it is not known of", {}, "10m"),
        Case("Redis is away", {dependency("redis"): "0+0x40"}, "10m"),
        Case("for a moment", {dependency("storage"): "1+0x20 0 0 0 0 1+0x20"}, "6m"),
        Case("for a minute", {dependency("storage"): "1+0x20 0+0x20"}, "6m30s", [Firing()]),
        Case(
            "for one process",
            {
                dependency("storage"): "1+0x40",
                dependency("storage", replica="b"): "0+0x40",
                dependency("storage", replica="c"): "NaN+0x40",
            },
            "5m",
            [Firing()],
        ),
    ],
    "RedisAway": [
        Case("it is there", {dependency("redis"): "1+0x40"}, "10m"),
        Case("nobody has looked", {dependency("redis"): "NaN+0x40"}, "10m"),
        Case("the storage is away", {dependency("storage"): "0+0x40"}, "10m"),
        Case("for a moment", {dependency("redis"): "1+0x20 0 0 0 0 1+0x20"}, "6m"),
        Case("for a minute", {dependency("redis"): "1+0x20 0+0x20"}, "6m30s", [Firing()]),
    ],
    "ServerErrors": [
        Case("no traffic", {}, "20m"),
        Case("nobody asks any more", {requests("200"): "9+0x80", requests("503"): "5+0x80"}, "20m"),
        Case("one in a hundred", {requests("200"): "0+100x80", requests("503"): "0+1x80"}, "20m"),
        Case("four of four", {requests("503"): "0+0x60 1 2 3 4 4+0x20"}, "20m45s"),
        Case(
            "health checks say so",
            {requests("503", "/health"): "0+5x80", requests("200"): "0+5x80"},
            "20m",
        ),
        Case(
            "one in ten, of two processes",
            {
                requests("200"): "0+9x80",
                requests("200", replica="b"): "0+9x80",
                requests("503"): "0+1x80",
                requests("503", STATUS, replica="b"): "0+1x80",
            },
            "20m",
            [Firing(["10%"])],
        ),
        Case("one in ten, just now", {requests("200"): "0+9x80", requests("503"): "0+1x80"}, "4m"),
        Case(
            "the first 500 of an address, at night",
            {requests("200"): "0+100x80", requests("500"): "_x60 1+0x20"},
            "15m30s",
            [Firing(["1"], WARNING)],
        ),
        Case(
            "another one",
            {requests("200"): "0+100x200", requests("500"): "1+0x160 2+0x40"},
            "42m",
            [Firing(["1"], WARNING)],
        ),
        Case(
            "a day later",
            {requests("200"): "0+100x200", requests("500"): "1+0x40 2+0x160"},
            "40m",
        ),
    ],
    "SlowResponses": [
        Case("no traffic", {}, "10m"),
        Case(
            "nobody asks", {took(STATUS, "sum"): "9+0x40", took(STATUS, "count"): "3+0x40"}, "10m"
        ),
        Case(
            "a second is not above a second",
            {took(STATUS, "sum"): "0+10x40", took(STATUS, "count"): "0+10x40"},
            "10m",
        ),
        Case(
            "more",
            {took(STATUS, "sum"): "0+15x40", took(STATUS, "count"): "0+10x40"},
            "10m",
            [Firing(["1.5s"], WARNING)],
        ),
        Case(
            "for less than two minutes",
            {took(STATUS, "sum"): "0+1x20 20+40x7", took(STATUS, "count"): "0+10x27"},
            "6m30s",
        ),
        Case(
            "one slow request, that is all",
            {took(STATUS, "sum"): "0+0x20 25+0x20", took(STATUS, "count"): "0+0x20 1+0x20"},
            "8m",
        ),
        Case(
            "streams are open for minutes",
            {
                took(STREAM, "sum"): "0+6000x40",
                took(STREAM, "count"): "0+10x40",
                took("/v1/download/start", "sum"): "0+250x40",
                took("/v1/download/start", "count"): "0+10x40",
                took("/v1/export/{job_id}/progress", "sum"): "0+6000x40",
                took("/v1/export/{job_id}/progress", "count"): "0+10x40",
                took(STATUS, "sum"): "0+1x40",
                took(STATUS, "count"): "0+10x40",
            },
            "10m",
        ),
        Case(
            "fast health checks do not hide it",
            {
                took(STATUS, "sum"): "0+20x40",
                took(STATUS, "count"): "0+10x40",
                took("/health/live", "sum"): "0+0x40",
                took("/health/live", "count"): "0+100x40",
            },
            "10m",
            [Firing(["2s"], WARNING)],
        ),
    ],
    "ManyRateLimited": [
        Case("no traffic", {}, "30m"),
        Case("never", {REFUSED: "0+0x120", requests("200"): "0+50x120"}, "30m"),
        Case("few of few", {REFUSED: "0+1x120", requests("429"): "0+1x120"}, "30m"),
        Case(
            "one in ten",
            {REFUSED: "0+5x120", requests("429"): "0+5x120", requests("200"): "0+45x120"},
            "30m",
        ),
        Case(
            "every second one",
            {REFUSED: "0+20x120", requests("429"): "0+20x120", requests("200"): "0+20x120"},
            "30m",
            [Firing(["50%"], WARNING)],
        ),
    ],
    "HighQueueDepth": [
        Case("at the threshold", {DEPTH: "1000+0x40"}, "10m"),
        Case("two processes, one queue", {DEPTH: "600+0x40", DEPTH_TOO: "600+0x40"}, "10m"),
        Case("Redis does not say", {DEPTH: "NaN+0x40"}, "10m"),
        Case("no process", {}, "10m"),
        Case("not for long", {DEPTH: "0+0x20 2000+0x18"}, "9m30s"),
        Case(
            "above",
            {DEPTH: "1001+0x40", DEPTH_TOO: "NaN+0x40"},
            "10m",
            [Firing(["1001"], WARNING)],
        ),
    ],
    "QueueFull": [
        Case("half", {DEPTH: "5000+0x40", LIMIT: "10000+0x40"}, "10m"),
        Case("at the threshold", {DEPTH: "9500+0x40", LIMIT: "10000+0x40"}, "10m"),
        Case("two halves", {DEPTH: "9e3+0x40", DEPTH_TOO: "9e3+0x40", LIMIT: "10000+0x40"}, "10m"),
        Case("Redis does not say", {DEPTH: "NaN+0x40", LIMIT: "10000+0x40"}, "10m"),
        Case("not for long", {DEPTH: "0+0x20 10000+0x20", LIMIT: "10000+0x40"}, "6m45s"),
        Case(
            "it comes and goes at its end",
            {DEPTH: "9990 10000 9995 9985 10000 9990+0x40", LIMIT: "10000+0x45"},
            "5m",
            [Firing(["99.9%"])],
        ),
    ],
    "NoActiveWorkers": [
        Case("nothing to do", {DEPTH: "0+0x40", BUSY: "0+0x40"}, "10m"),
        Case("all are busy", {DEPTH: "50+0x40", BUSY: "8+0x40"}, "10m"),
        Case(
            "those of another process",
            {DEPTH: "50+0x40", DEPTH_TOO: "50+0x40", BUSY: "0+0x40", BUSY_TOO: "1+0x40"},
            "10m",
        ),
        Case("for a moment", {DEPTH: "50+0x40", BUSY: "8+0x20 0+0x10 8+0x10"}, "7m30s"),
        Case("Redis does not say", {DEPTH: "NaN+0x40", BUSY: "0+0x40"}, "10m"),
        Case(
            "nobody works",
            {DEPTH: "5+0x40", DEPTH_TOO: "5+0x40", BUSY: "0+0x40", BUSY_TOO: "0+0x40"},
            "6m",
            [Firing(["5"])],
        ),
    ],
    "HighFailureRate": [
        Case("no jobs", {ended("failed"): "0+0x120", ended("completed"): "0+0x120"}, "30m"),
        Case("none has ended yet", {}, "30m"),
        Case(
            "the only one", {ended("failed"): "0+0x60 1+0x60", ended("completed"): "0+0x120"}, "20m"
        ),
        Case("one in ten", {ended("failed"): "0+1x120", ended("completed"): "0+9x120"}, "30m"),
        Case(
            "their callers ended them",
            {ended("cancelled"): "0+5x120", ended("completed"): "0+5x120"},
            "30m",
        ),
        Case(
            "one in five, over restarts",
            {
                ended("failed"): "0+1x50 0+1x70",
                ended("completed"): "0+4x50 0+4x70",
                ended("cancelled"): "0+9x120",
            },
            "30m",
            [Firing(["20%"], WARNING)],
        ),
        Case(
            "of one process in two",
            {
                ended("failed"): "0+4x120",
                ended("completed"): "0+0x120",
                ended("failed", replica="b"): "0+0x120",
                ended("completed", replica="b"): "0+4x120",
            },
            "30m",
            [Firing(["50%"]), Firing(["50%"], WARNING)],
        ),
        Case(
            "one caller's dead links, at night",
            {ended("failed"): "0+0x60 2+0x4 4+0x4 6+0x60", ended("completed"): "0+0x140"},
            "24m",
            [Firing(["100%"], WARNING)],
        ),
        Case(
            "four failures are few",
            {ended("failed"): "0+0x60 1 2 3 4 4+0x60", ended("completed"): "0+0x120"},
            "24m",
        ),
    ],
    "SlowProcessing": [
        Case(
            "no jobs",
            {within("300"): "0+0x200", within("+Inf"): "0+0x200", COUNT: "0+0x200"},
            "45m",
        ),
        Case("none has ended yet", {}, "45m"),
        Case(
            "nearly all within five minutes",
            {
                within("120"): "0+0x200",
                within("300"): "0+96x200",
                within("600"): "0+100x200",
                within("+Inf"): "0+100x200",
                COUNT: "0+100x200",
            },
            "45m",
        ),
        Case(
            "one in ten takes longer",
            {
                within("300"): "0+90x200",
                within("600"): "0+90x200",
                within("+Inf"): "0+100x200",
                COUNT: "0+100x200",
            },
            "45m",
            [Firing(["10m 0s"], WARNING)],
        ),
        Case(
            "a large one, by itself",
            {
                within("300"): "0+0x200",
                within("600"): "0+0x120 1+0x80",
                within("+Inf"): "0+0x120 1+0x80",
                COUNT: "0+0x120 1+0x80",
            },
            "45m",
        ),
    ],
    "WebhooksFailing": [
        Case("none", {webhooks(it): "0+0x200" for it in ("delivered", "failed", "gone")}, "50m"),
        Case("not known of", {}, "50m"),
        Case(
            "half, but no more",
            {webhooks("delivered"): "0+2x200", webhooks("failed"): "0+2x200"},
            "50m",
        ),
        Case("receivers want no more", {webhooks("gone"): "0+2x200"}, "50m"),
        Case("one receiver, a few times", {webhooks("failed"): "0+0x80 1 2 3 4 5 5+0x110"}, "50m"),
        Case(
            "most",
            {
                webhooks("delivered"): "0+1x200",
                webhooks("failed"): "0+2x200",
                webhooks("exhausted"): "0+1x200",
            },
            "50m",
            [Firing(["75%"], WARNING)],
        ),
    ],
    "StorageErrors": [
        Case("a folder has none", {}, "20m"),
        Case("all is well", {stored("ok"): "0+50x80"}, "20m"),
        Case(
            "it is asked for what is not there, and answers are no longer wanted",
            {
                stored("ok"): "0+5x80",
                stored("object_missing"): "0+5x80",
                stored("upload_missing"): "0+5x80",
                stored("cancelled"): "0+5x80",
            },
            "20m",
        ),
        Case(
            "one in a hundred",
            {stored("ok"): "0+99x80", stored("storage_unavailable"): "0+1x80"},
            "20m",
        ),
        Case(
            "few", {stored("ok"): "0+0x80", stored("storage_refused"): "0+0x30 1 2 3 3+0x50"}, "14m"
        ),
        Case(
            "one in ten",
            {stored("ok"): "0+9x80", stored("storage_unavailable"): "0+1x80"},
            "20m",
            [Firing(["10%"], WARNING)],
        ),
    ],
    "DiskNearlyFull": [
        Case("half", {FREE: "50+0x80", SIZE: "100+0x80"}, "15m"),
        Case("at the threshold", {FREE: "10+0x80", SIZE: "100+0x80"}, "15m"),
        Case("it cannot be asked", {FREE: "NaN+0x80", SIZE: "NaN+0x80"}, "15m"),
        Case("it has no size", {FREE: "0+0x80", SIZE: "0+0x80"}, "15m"),
        Case("for a moment", {FREE: "50+0x20 5+0x20 50+0x40", SIZE: "100+0x80"}, "11m"),
        Case(
            "nearly",
            {FREE: "9+0x80", SIZE: "100+0x80"},
            "15m",
            [Firing(["9%", "a"], WARNING, at("a"))],
        ),
        Case(
            "soon",
            {FREE: "50+0x20 2+0x60", SIZE: "100+0x80"},
            "7m",
            [Firing(["2%", "a"], labels=at("a"))],
        ),
    ],
    "SpoolNearlyFull": [
        Case("empty", {SPOOL: "0+0x120", ROOM: "100+0x120"}, "30m"),
        Case("at the threshold", {SPOOL: "90+0x120", ROOM: "100+0x120"}, "30m"),
        Case("as a busy server does", {SPOOL: "95+0x40 20+0x80", ROOM: "100+0x120"}, "10m"),
        Case("not limited", {SPOOL: "0+0x120", ROOM: "0+0x120"}, "30m"),
        Case(
            "all the time",
            {SPOOL: "95+0x120", ROOM: "100+0x120"},
            "20m",
            [Firing(["95%", "a"], WARNING, at("a"))],
        ),
    ],
    "MemoryHigh": [
        Case("as it should be", {MEMORY: f"{200 * MIB}+0x120"}, "30m"),
        Case("at the threshold", {MEMORY: f"{384 * MIB}+0x120"}, "30m"),
        Case(
            "for a moment", {MEMORY: f"{100 * MIB}+0x20 {500 * MIB}+0x20 {100 * MIB}+0x80"}, "10m"
        ),
        Case(
            "it stays",
            {MEMORY: f"{512 * MIB}+0x120"},
            "20m",
            [Firing(["a", "512Mi"], WARNING, at("a"))],
        ),
    ],
}


@pytest.fixture(scope="module")
def promtool() -> str:
    return require_tool("promtool")


@pytest.mark.parametrize("alert", rules.names())
def test_it_fires_when_it_should_and_only_then(alert: str, promtool: str, tmp_path: Path) -> None:
    if said := rules.simulate(promtool, alert, CASES[alert], tmp_path):
        pytest.fail(said)


def test_each_is_seen_to_fire_in_each_severity_and_to_stay_silent() -> None:
    """An alert that no case has tried is none that anybody can rely on."""
    shipped = {(rule["alert"], rule["labels"]["severity"]) for rule in rules.rules()}
    fired = {(name, it.severity) for name, cases in CASES.items() for c in cases for it in c.firing}
    assert fired == shipped
    assert [name for name, cases in CASES.items() if all(case.firing for case in cases)] == []


def test_a_simulation_can_fail(promtool: str, tmp_path: Path) -> None:
    """Both ways: what should have fired, and what should not have."""
    silent = Case("", {DEPTH: "1001+0x40"}, "10m")
    loud = Case("", {DEPTH: "1000+0x40"}, "10m", [Firing(["1k"], WARNING)])
    for case in (silent, loud):
        assert "HighQueueDepth" in rules.simulate(promtool, "HighQueueDepth", [case], tmp_path)


@pytest.mark.parametrize("what", [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_promtool_takes_the_files(what: tuple[str, str], promtool: str) -> None:
    kind, name = what
    done = subprocess.run(
        [promtool, "check", kind, rules.PROMETHEUS / name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_says_what_is_the_matter_how_bad_it_is_and_where_to_read_on() -> None:
    for rule in rules.rules():
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
