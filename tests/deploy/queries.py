"""What the queries of alerts and dashboards ask for, and what there is to be asked for."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import promql_parser as promql
import yaml

from downloadd.telemetry.metrics import Metrics

#: Given by Prometheus to whatever it scrapes, and what it knows of scraping itself.
TARGET = frozenset({"job", "instance"})
OWN: Mapping[str, frozenset[str]] = {
    "up": TARGET,
    "ALERTS": TARGET | {"alertname", "alertstate", "severity"},
}
_SAMPLES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "info": ("_info",),
}


@cache
def known() -> Mapping[str, frozenset[str]]:
    """Every series that a server's own registry exposes: its name, and its labels' names."""
    registry = Metrics().registry
    found: dict[str, frozenset[str]] = {}
    for family in registry.collect():
        labels: Collection[str] = getattr(
            registry._names_to_collectors.get(family.name), "_labelnames", ()
        )
        shown = {label for sample in family.samples for label in sample.labels}
        for end in _SAMPLES[family.type]:
            extra = {"le"} if end == "_bucket" else set()
            found[family.name + end] = frozenset({*labels, *shown, *extra} - {"le"} | extra)
    # It is set where the server is put together.
    if "download_info" in found:
        found["download_info"] |= {"version"}
    return found


@dataclass(frozen=True)
class Ask:
    """A series that is asked for, and the labels that it is told by or kept by."""

    metric: str
    labels: frozenset[str]


def asked(query: str) -> list[Ask]:
    """Every series in a query. ``ValueError`` where it cannot be read."""
    return list(_walk(promql.parse(query), frozenset()))


def wrong(query: str) -> list[str]:
    """What is asked for and does not exist."""
    found = []
    for ask in asked(query):
        labels = OWN.get(ask.metric) or known().get(ask.metric)
        if labels is None:
            found.append(f"{ask.metric}: there is no such metric")
            continue
        if unknown := ask.labels - labels - TARGET:
            found.append(f"{ask.metric}: it has no label {', '.join(sorted(unknown))}")
    return found


def run(promtool: str, queries: Collection[str], folder: Path) -> str:
    """Have Prometheus evaluate queries over two processes that expose all that there is.

    Returns its complaints: a query that cannot be parsed, series that cannot be
    matched with one another. Nothing where all is well.
    """
    rules = [{"record": f"query:{index}", "expr": it} for index, it in enumerate(queries)]
    path = folder / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    series = [
        {"series": f"{name}{{{labels}}}", "values": "1+1x40"}
        for name, names in (*OWN.items(), *known().items())
        for labels in _two_processes(names)
    ]
    test = {"interval": "15s", "input_series": series, "promql_expr_test": [_NOTHING]}
    document = {"rule_files": [str(path)], "evaluation_interval": "1m", "tests": [test]}
    simulation = folder / "test.yml"
    simulation.write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [promtool, "test", "rules", simulation], capture_output=True, text=True, timeout=60
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


#: The rules are evaluated up to the time of the last test, so there has to be one.
_NOTHING = {"expr": "vector(0) > 0", "eval_time": "8m", "exp_samples": []}


def _two_processes(names: Collection[str]) -> Iterator[str]:
    others = sorted(set(names) - TARGET - {"le"})
    for instance in ("a", "b"):
        fixed = {"job": "downloadd", "instance": instance, **dict.fromkeys(others, "x")}
        for le in ("1", "+Inf") if "le" in names else (None,):
            labels = fixed if le is None else {**fixed, "le": le}
            yield ", ".join(f'{name}="{value}"' for name, value in labels.items())


def _walk(node: object, kept: frozenset[str]) -> Iterator[Ask]:
    """``kept``: labels by which what is below is grouped, or matched with another series."""
    match node:
        case promql.AggregateExpr():
            yield from _walk(node.expr, _grouped(node) | (kept if node.modifier is None else set()))
        case promql.BinaryExpr():
            on = frozenset(node.modifier.matching.labels) if _matched(node) else frozenset()
            for side in (node.lhs, node.rhs):
                yield from _walk(side, kept | on)
        case promql.Call():
            for argument in node.args:
                yield from _walk(argument, kept)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _walk(node.expr, kept)
        case promql.MatrixSelector():
            yield from _walk(node.vector_selector, kept)
        case promql.VectorSelector():
            told = {matcher.name for matcher in node.matchers.matchers}
            assert node.name is not None, "a query by labels alone"
            yield Ask(node.name, frozenset(told) | kept)
        case promql.NumberLiteral() | promql.StringLiteral():
            return
        case _:
            raise AssertionError(f"not known: {type(node).__name__}")


def _grouped(node: promql.AggregateExpr) -> frozenset[str]:
    return frozenset() if node.modifier is None else frozenset(node.modifier.labels)


def _matched(node: promql.BinaryExpr) -> bool:
    return node.modifier is not None and node.modifier.matching is not None
