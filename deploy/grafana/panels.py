"""How a panel is written down in Grafana's JSON, alike for all dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: The version of the form that is written; Grafana moves older ones on by itself.
SCHEMA = 39
#: The grid is so many columns wide.
COLUMNS = 24
TAG = "downloadd"

#: The processes that are looked at.
_SELECTOR = 'job="downloadd", instance=~"$instance"'

Source = Literal["prometheus", "loki"]
#: A colour and the value from which it counts; the first has none.
Steps = Sequence[tuple[str, float | None]]
Json = dict[str, Any]

_SOURCES: dict[Source, Json] = {
    "prometheus": {"type": "prometheus", "uid": "${datasource}"},
    "loki": {"type": "loki", "uid": "${loki}"},
}


@dataclass(frozen=True)
class Query:
    """A query, what its series are called, and who answers it."""

    text: str
    legend: str = ""
    source: Source = "prometheus"
    #: One value for the time that is shown, not a line over it.
    instant: bool = False


@dataclass(frozen=True)
class Panel:
    """What is the same in every panel, and what is its kind's own."""

    kind: str
    title: str
    about: str
    queries: Sequence[Query]
    options: Json
    defaults: Json = field(default_factory=dict)
    overrides: Sequence[Json] = ()
    extra: Json = field(default_factory=dict)
    form: str = "time_series"


class Row:
    """Panels side by side, equally wide."""

    def __init__(self, *panels: Panel, height: int = 8) -> None:
        self.panels = panels
        self.height = height


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    about: str
    rows: Sequence[Row]


# --- words -------------------------------------------------------------------------


def alert(*names: str) -> str:
    """Say which alerts look at this, and where to read on."""
    entries = [f"{name} (docs/operations.md#{name.lower()})" for name in names]
    return f"Alert{'s' if names[1:] else ''}: {', '.join(entries)}."


def colours(orange: float, red: float) -> Steps:
    """Green below these."""
    return [("green", None), ("orange", orange), ("red", red)]


def lokis(service: str, word: str, parse: str, which: str) -> str:
    """Lines a second of a service that hold a word, parsed and filtered."""
    return (
        f'sum(rate({{service="{service}"}} |= `{word}` | {parse} | __error__=""'
        f" | {which} [$__auto]))"
    )


# --- kinds of panels ---------------------------------------------------------------


def stat(
    title: str,
    about: str,
    queries: Sequence[Query],
    *,
    unit: str,
    steps: Steps = (("text", None),),
    words: tuple[str, str] | None = None,
    empty: str = "",
) -> Panel:
    """Make one large number; ``words`` are shown in place of 0 and 1, ``empty`` of nothing."""
    mappings: list[Json] = []
    if words is not None:
        steps = [("red", None), ("green", 1)]
        shown = {str(number): {"text": word} for number, word in enumerate(words)}
        mappings.append({"type": "value", "options": shown})
    defaults = {"unit": unit, "mappings": mappings, "thresholds": _thresholds(steps)}
    if empty:
        defaults["noValue"] = empty
    options = {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    }
    return Panel("stat", title, about, queries, options, defaults)


def bars(
    title: str,
    about: str,
    queries: Sequence[Query],
    *,
    unit: str,
    kind: Literal["timeseries", "bargauge"] = "timeseries",
) -> Panel:
    """Make lines over time, or one bar for each query."""
    defaults: Json = {"unit": unit, "min": 0}
    if kind == "bargauge":
        options: Json = {
            "displayMode": "gradient",
            "orientation": "horizontal",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showUnfilled": True,
        }
        defaults["noValue"] = "none"
        return Panel(kind, title, about, queries, options, defaults)
    defaults["custom"] = {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never"}
    options = {
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel(kind, title, about, queries, options, defaults)


def heatmap(title: str, about: str, query: Query) -> Panel:
    """Make a histogram over time, from the buckets that Prometheus has."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    }
    return Panel("heatmap", title, about, [query], options, form="heatmap")


def table(title: str, about: str, query: Query, *, unit: str = "short") -> Panel:
    """Make rows: what the query's series are called, and their values."""
    hidden = {"Time": True, "job": True, "__name__": True}
    extra = {
        "transformations": [
            {"id": "organize", "options": {"excludeByName": hidden, "renameByName": {}}}
        ]
    }
    # The unit is of the values alone, which have the query's letter in their name.
    overrides = [
        {
            "matcher": {"id": "byRegexp", "options": "/^Value/"},
            "properties": [{"id": "unit", "value": unit}],
        }
    ]
    options = {"showHeader": True, "cellHeight": "sm"}
    return Panel(
        "table", title, about, [query], options, extra=extra, overrides=overrides, form="table"
    )


def logs(title: str, about: str, query: str) -> Panel:
    """Make the lines themselves, the newest first."""
    options = {
        "dedupStrategy": "none",
        "enableLogDetails": True,
        "prettifyLogMessage": False,
        "showTime": True,
        "sortOrder": "Descending",
        "wrapLogMessage": True,
    }
    return Panel("logs", title, about, [Query(query, source="loki")], options)


# --- writing -----------------------------------------------------------------------


def document(dashboard: Dashboard) -> str:
    """Return the dashboard as Grafana reads it; without an id, which each Grafana gives."""
    return (
        json.dumps(
            {
                "uid": dashboard.uid,
                "title": dashboard.title,
                "description": f"{dashboard.about} What to do about it: docs/operations.md.",
                "tags": [TAG],
                "schemaVersion": SCHEMA,
                "editable": False,
                "graphTooltip": 1,
                "refresh": "30s",
                "time": {"from": "now-3h", "to": "now"},
                "timezone": "browser",
                "links": [_others()],
                "templating": {"list": list(_variables())},
                "annotations": {"list": [_alerts()]},
                "panels": list(_panels(dashboard.rows)),
            },
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )


def _others() -> Json:
    return {
        "type": "dashboards",
        "title": "downloadd",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
    }


def _variables() -> Iterator[Json]:
    for name, label, kind in (("datasource", "Metrics", "prometheus"), ("loki", "Logs", "loki")):
        yield {"name": name, "label": label, "type": "datasource", "query": kind, "current": {}}
    found = 'label_values(up{job="downloadd"}, instance)'
    yield {
        "name": "instance",
        "label": "Process",
        "type": "query",
        "datasource": _SOURCES["prometheus"],
        "definition": found,
        "query": {"query": found, "refId": "instance"},
        # With each change of the time: processes come and go.
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _alerts() -> Json:
    return {
        "name": "Alerts",
        "datasource": _SOURCES["prometheus"],
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "tagKeys": "severity,instance",
        "step": "60s",
    }


def _panels(rows: Sequence[Row]) -> Iterator[Json]:
    number, top = 0, 0
    for row in rows:
        width = COLUMNS // len(row.panels)
        for index, panel in enumerate(row.panels):
            number += 1
            place = {"x": index * width, "y": top, "w": width, "h": row.height}
            yield _panel(panel, number, place)
        top += row.height


def _panel(panel: Panel, number: int, place: Json) -> Json:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "gridPos": place,
        "datasource": _SOURCES[panel.queries[0].source],
        "targets": [
            _target(query, chr(ord("A") + index), panel.form)
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": panel.defaults, "overrides": list(panel.overrides)},
        "options": panel.options,
        **panel.extra,
    }


def _target(query: Query, letter: str, form: str) -> Json:
    target: Json = {"refId": letter, "datasource": _SOURCES[query.source], "expr": _whole(query)}
    target["legendFormat"] = query.legend or ("" if query.source == "loki" else "__auto")
    if query.source == "loki":
        return {**target, "queryType": "instant" if query.instant else "range"}
    return {**target, "format": form, "instant": query.instant, "range": not query.instant}


def _whole(query: Query) -> str:
    """The query with the selector in place of "@"."""
    text = re.sub(r"@\{", f"{{{_SELECTOR}, ", query.text)
    return text.replace("@", f"{{{_SELECTOR}}}")


def _thresholds(steps: Steps) -> Json:
    return {
        "mode": "absolute",
        "steps": [{"color": colour, "value": value} for colour, value in steps],
    }
