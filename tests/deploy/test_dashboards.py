"""The dashboards: that they are what build.py writes, and ask for nothing that is not there."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from downloadd.web.routes import LOCAL_ROUTES, ROUTES
from tests.deploy import events, queries, rules
from tests.tools import require_tool

GRAFANA = rules.ROOT / "deploy/grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))

#: What Grafana puts in place of its variables, as far as a query's form goes.
VARIABLES = {"$__rate_interval": "1m", "$__range": "3h", "$__auto": "1m", "$instance": ".*"}

#: Made of numbers, which are of some unit.
NUMBERS = {"stat", "timeseries", "bargauge"}


def dashboards() -> list[Mapping[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in FILES]


def panels() -> Iterator[Mapping[str, Any]]:
    for dashboard in dashboards():
        yield from dashboard["panels"]


def expressions(source: str) -> Iterator[tuple[str, str]]:
    """The titles of panels and their queries of one kind of source, without variables."""
    for panel in panels():
        for target in panel["targets"]:
            if target["datasource"]["type"] == source:
                query = target["expr"]
                for name, value in VARIABLES.items():
                    query = query.replace(name, value)
                yield panel["title"], query


@pytest.fixture(scope="module")
def promtool() -> str:
    return require_tool("promtool")


def test_they_are_what_the_generator_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changes build.py runs it; who changes a file by hand loses it."""
    monkeypatch.syspath_prepend(GRAFANA)
    spec = importlib.util.spec_from_file_location("dashboards_build", GRAFANA / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(build)
        written = {f"{it.uid}.json": build.document(it) for it in build.DASHBOARDS}
    finally:
        for path in GRAFANA.glob("*.py"):
            sys.modules.pop(path.stem, None)
    kept = {path.name: path.read_text(encoding="utf-8") for path in FILES}
    assert written == kept, "run: python deploy/grafana/build.py"


def test_every_query_can_be_answered(promtool: str, tmp_path: Path) -> None:
    """By Prometheus itself, for several processes."""
    found = [query for _, query in expressions("prometheus")]
    assert len(found) > 40
    assert queries.run(promtool, found, tmp_path) == ""


def test_every_query_names_metrics_and_labels_that_there_are() -> None:
    wrong = [(title, it) for title, q in expressions("prometheus") for it in queries.wrong(q)]
    assert wrong == []


def test_so_does_every_alert() -> None:
    wrong = [(rule["alert"], it) for rule in rules.rules() for it in queries.wrong(rule["expr"])]
    assert wrong == []


def test_every_metric_of_ours_is_shown() -> None:
    """What is counted and never looked at is counted in vain."""
    shown = {ask.metric for _, query in expressions("prometheus") for ask in queries.asked(query)}
    ours = {name for name in queries.known() if not name.startswith(("process_", "python_"))}
    # Of a histogram its buckets are enough.
    ends = ("_count", "_sum")
    assert {it for it in ours - shown if not it.endswith(ends)} == set()


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("download_queue_length", "no such metric"),
        ("downloads_total{state='failed'}", "no label state"),
        ("sum by (reason) (rate(downloads_total[5m]))", "no label reason"),
        ("up * on (path) downloads_total", "no label path"),
        ("http_request_duration_seconds", "no such metric"),
        ("sum by (le) (rate(downloads_total[5m]))", "no label le"),
    ],
)
def test_a_wrong_query_is_found(query: str, complaint: str) -> None:
    assert complaint in " ".join(queries.wrong(query))


@pytest.mark.parametrize("query", ["sum(up", "rate(up)", "downloads_total / on (status) up"])
def test_a_query_that_cannot_be_answered_is_found(
    query: str, promtool: str, tmp_path: Path
) -> None:
    assert queries.run(promtool, [query], tmp_path) != ""


# --- logs --------------------------------------------------------------------------


def test_queries_of_logs_name_services_messages_and_fields_that_there_are() -> None:
    """There is no parser of LogQL to be had; what can be told without one."""
    collected = set(re.findall(r"[a-z-]+", re.search(r"<service>([^)]*)", _alloy()).group(1)))
    fields = events.fields() | {"message", "level", "service", "timestamp"}
    # nginx's own field, in its log_format.
    fields |= {"cache"}
    found = list(expressions("loki"))
    assert len(found) > 8
    for title, query in found:
        assert query.count("(") == query.count(")"), title
        assert query.count("{") == query.count("}"), title
        for service in re.findall(r'service="([^"]*)"', query):
            assert service in collected, title
        for parsed in re.findall(r"json ([^|]*)", query):
            for field in re.findall(r'="([^"]*)"', parsed):
                assert field in fields, (title, field)
        for event in re.findall(r'\| ?(?:= |event=)"([a-z_.]+)"', query):
            assert event in events.messages(), (title, event)


def _alloy() -> str:
    return (rules.ROOT / "deploy/alloy/config.alloy").read_text()


# --- form --------------------------------------------------------------------------


def test_each_can_be_linked_to_and_is_installed_anywhere() -> None:
    """A uid of its own for links; no id, which every Grafana gives itself."""
    found = dashboards()
    assert [it["uid"] for it in found] == [path.stem for path in FILES]
    assert len(found) == 3
    for dashboard in found:
        assert "id" not in dashboard
        assert "docs/operations.md" in dashboard["description"]
        variables = {it["name"] for it in dashboard["templating"]["list"]}
        assert variables == {"datasource", "loki", "instance"}
        assert dashboard["links"][0]["tags"] == dashboard["tags"]


def test_panels_say_what_they_show_and_do_not_overlap() -> None:
    for dashboard in dashboards():
        taken: set[tuple[int, int]] = set()
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in dashboard["panels"]:
            assert panel["title"], panel["id"]
            assert panel["description"].endswith("."), panel["title"]
            if panel["type"] in NUMBERS:
                assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            letters = [target["refId"] for target in panel["targets"]]
            assert len(set(letters)) == len(letters)
            for target in panel["targets"]:
                assert target["datasource"]["uid"] in ("${datasource}", "${loki}")
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells


def test_every_alert_is_named_on_the_panel_that_shows_it() -> None:
    """And none that there is not."""
    named = set()
    for panel in panels():
        for name, anchor in re.findall(
            r"(\w+) \(docs/operations\.md#(\w+)\)", panel["description"]
        ):
            assert anchor == name.lower()
            named.add(name)
    assert named == set(rules.names())


def test_what_is_provisioned_fits_together() -> None:
    """Links between logs and traces lead to sources that are there, and dashboards to a folder."""
    source = GRAFANA / "provisioning/datasources/downloadd.yml"
    found = {it["uid"]: it for it in yaml.safe_load(source.read_text())["datasources"]}
    assert {uid: it["type"] for uid, it in found.items()} == {
        "prometheus": "prometheus",
        "loki": "loki",
        "jaeger": "jaeger",
    }
    (link,) = found["loki"]["jsonData"]["derivedFields"]
    assert link["datasourceUid"] in found
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    for line in (f'{{"traceId": "{trace}"}}', f'{{"traceId":"{trace}"}}'):
        assert re.search(link["matcherRegex"], line).group(1) == trace
    back = found["jaeger"]["jsonData"]["tracesToLogsV2"]
    assert back["datasourceUid"] in found
    # A single dollar would be taken for a variable of the environment.
    for text in (link["url"], back["query"]):
        assert re.search(r"\$\$\{__\w+\.\w+\}", text)
    scrape = yaml.safe_load((rules.PROMETHEUS / "prometheus.yml").read_text())["global"]
    assert found["prometheus"]["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    provider = GRAFANA / "provisioning/dashboards/downloadd.yml"
    (only,) = yaml.safe_load(provider.read_text())["providers"]
    assert only["options"]["path"] == "/etc/grafana/dashboards"


def test_what_is_slow_by_design_is_left_out_of_latencies_and_nothing_else() -> None:
    """By the routes' own templates: one that is renamed, or a new stream, is found here."""
    app = web.Application()
    app.add_routes([*ROUTES, *LOCAL_ROUTES])
    paths = {resource.canonical for resource in app.router.resources()}
    slow = {
        "/v1/download/subscribe/{job_id}",
        "/v1/download/stream/{job_id}",
        "/v1/export/{job_id}/progress",
        "/v1/files/{key}",
        # They wait for a job, or for sources.
        "/v1/download/start",
        "/v1/download/check",
    }
    asked = [query for _, query in expressions("prometheus")]
    asked += [rule["expr"] for rule in rules.rules()]
    patterns = {it for query in asked for it in re.findall(r'path!~"([^"]*)"', query)}
    assert len(patterns) == 1
    (pattern,) = patterns
    assert {path for path in paths if re.fullmatch(pattern, path)} == slow
    # All that is left is of the API.
    assert {it for it in paths if it.startswith("/v1/")} > slow
