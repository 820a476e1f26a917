"""What the kernel counts for this process and prometheus-client does not ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

#: proc(5), "/proc/pid/io": what went to or came from the disk, not from the page cache.
_COUNTERS = {
    "read_bytes": (
        "process_disk_read_bytes",
        "Bytes that this process, without its Valkey, caused to be read from disks.",
    ),
    "write_bytes": (
        "process_disk_written_bytes",
        "Bytes that this process, without its Valkey, caused to be written to disks.",
    ),
}


class ProcessIoCollector(Collector):
    """Disk I/O of this process; nothing where the system does not tell (not Linux, or hidden)."""

    def __init__(self, *, registry: CollectorRegistry, path: Path = Path("/proc/self/io")) -> None:
        self._path = path
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """As ``Collector``."""
        try:
            lines = self._path.read_text().splitlines()
        except OSError:
            return
        for line in lines:
            name, _, count = line.partition(":")
            if name in _COUNTERS:
                yield CounterMetricFamily(*_COUNTERS[name], value=int(count))
