"""Settings: read once at the start, typed, checked; see ``config.toml``."""

from downloadd.config.loading import SETTINGS, Loaded, load, trace, value_of
from downloadd.config.sections import (
    Auth,
    Fetch,
    Jobs,
    Limits,
    Network,
    Quota,
    Server,
    Settings,
    Simulation,
    State,
    Storage,
    Telemetry,
    Webhooks,
)

__all__ = [
    "SETTINGS",
    "Auth",
    "Fetch",
    "Jobs",
    "Limits",
    "Loaded",
    "Network",
    "Quota",
    "Server",
    "Settings",
    "Simulation",
    "State",
    "Storage",
    "Telemetry",
    "Webhooks",
    "load",
    "trace",
    "value_of",
]
