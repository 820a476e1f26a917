"""The alert rules as they are shipped, and simulations of them with promtool."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
ALERTS = PROMETHEUS / "alerts.yml"

#: As in prometheus.yml; one of the numbers below is so many seconds.
STEP = 15


@dataclass(frozen=True)
class Firing:
    """An alert that is expected: what its description says in place of each ``{{ … }}``."""

    values: Sequence[str] = ()
    severity: str = "critical"
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What Prometheus would have scraped every 15 seconds, and what it makes of it."""

    name: str
    #: Series to their values, as promtool writes them: "0+2x40" is 0, 2, 4, … 80.
    series: Mapping[str, str]
    #: When it is looked at: "30m".
    at: str
    firing: Sequence[Firing] = ()


def rules() -> Iterator[Mapping[str, Any]]:
    """Every rule of alerts.yml."""
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        yield from group["rules"]


def names() -> list[str]:
    """Every alert's name, once."""
    return sorted({rule["alert"] for rule in rules()})


def simulate(promtool: str, alert: str, cases: Iterable[Case], folder: Path) -> str:
    """Return what promtool says of the cases: nothing where all went as expected."""
    tests = [
        {
            "name": case.name,
            "interval": f"{STEP}s",
            "input_series": [{"series": name, "values": it} for name, it in case.series.items()],
            "alert_rule_test": [
                {
                    "eval_time": case.at,
                    "alertname": alert,
                    "exp_alerts": [_expected(alert, it) for it in case.firing],
                }
            ],
        }
        for case in cases
    ]
    # The other rules would only take time: fifteen times as much.
    own = [rule for rule in rules() if rule["alert"] == alert]
    shipped = folder / "rules.yml"
    shipped.write_text(yaml.safe_dump({"groups": [{"name": alert, "rules": own}]}))
    document = {
        "rule_files": [str(shipped)],
        "evaluation_interval": f"{STEP}s",
        "tests": tests,
    }
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [promtool, "test", "rules", path], capture_output=True, text=True, timeout=60
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _expected(alert: str, firing: Firing) -> Mapping[str, Any]:
    (rule,) = (
        it for it in rules() if it["alert"] == alert and it["labels"]["severity"] == firing.severity
    )
    values = iter(firing.values)
    told = rule["annotations"]
    description = re.sub(r"\{\{.*?\}\}", lambda _: next(values), told["description"])
    return {
        "exp_labels": {"severity": firing.severity, **firing.labels},
        "exp_annotations": {**told, "description": description},
    }
