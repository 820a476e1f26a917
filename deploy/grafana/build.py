"""Writes the three dashboards: python deploy/grafana/build.py.

What each shows stands in its own file beside this one; how a panel is written
down in Grafana's JSON stands in ``panels.py``. Tests compare the files with
this, and every query with the metrics that the server has.

In queries ``@`` is the selector of the processes that are looked at, and
``@{…}`` the same with more in it.
"""

from __future__ import annotations

from pathlib import Path

from api_dashboard import API
from infrastructure_dashboard import INFRASTRUCTURE
from jobs_dashboard import JOBS
from panels import document

FOLDER = Path(__file__).parent / "dashboards"

DASHBOARDS = (API, JOBS, INFRASTRUCTURE)


def main() -> None:
    """Write every dashboard."""
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(document(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
