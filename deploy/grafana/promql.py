"""What dashboards ask of Prometheus again and again."""

from __future__ import annotations

from panels import Query


def quantile(share: float, metric: str, labels: str = "", by: str = "") -> str:
    """How long it took at most for this share of what was measured."""
    names = ", ".join(filter(None, ("le", by)))
    within = f"@{{{labels}}}" if labels else "@"
    return (
        f"histogram_quantile({share}, sum by ({names}) "
        f"(rate({metric}_bucket{within}[$__rate_interval])))"
    )


def percentiles(metric: str, labels: str = "") -> list[Query]:
    """The median, and what is rare."""
    return [Query(quantile(it / 100, metric, labels), f"p{it}") for it in (50, 95, 99)]


def rate(metric: str, labels: str = "", by: str = "") -> str:
    """So many in a second."""
    within = f"@{{{labels}}}" if labels else "@"
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{within}[$__rate_interval]))"


def share(metric: str, part: str, whole: str = "") -> str:
    """The part of what is counted that has these labels."""
    return f"{rate(metric, part)} / {rate(metric, whole)}"
