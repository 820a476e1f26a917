"""What the design documents draw as "Infrastructure"."""

from __future__ import annotations

from panels import (
    Dashboard,
    Query,
    Row,
    alert,
    bars,
    colours,
    logs,
    stat,
    table,
)
from promql import quantile, rate

INFRASTRUCTURE = Dashboard(
    uid="downloadd-infrastructure",
    title="downloadd: infrastructure",
    about="What the processes take, and what they depend on.",
    rows=[
        Row(
            stat(
                "Storage",
                "Whether the object storage is there, by the process that is worst off. "
                + alert("StorageAway"),
                [Query('min(download_dependency_up@{dependency="storage"})')],
                unit="short",
                words=("away", "up"),
            ),
            stat(
                "Redis",
                "Whether Redis (Valkey) is there and takes writes. " + alert("RedisAway"),
                [Query('min(download_dependency_up@{dependency="redis"})')],
                unit="short",
                words=("away", "up"),
            ),
            stat(
                "CPU usage",
                "Of all processes together; 100 % is one core.",
                [Query(rate("process_cpu_seconds_total"))],
                unit="percentunit",
            ),
            stat(
                "Memory usage",
                "Of the process that takes the most. " + alert("MemoryHigh"),
                [Query("max(process_resident_memory_bytes@)")],
                unit="bytes",
                steps=colours(256 * 2**20, 384 * 2**20),
            ),
            stat(
                "Disk I/O",
                "Bytes a second that all processes read from disks and write to them.",
                [
                    Query(
                        f"{rate('process_disk_read_bytes_total')}"
                        f" + {rate('process_disk_written_bytes_total')}"
                    )
                ],
                unit="Bps",
            ),
            stat(
                "Disk free",
                "Of the file system under the data folder. " + alert("DiskNearlyFull"),
                [Query("min(download_disk_free_bytes@ / download_disk_size_bytes@)")],
                unit="percentunit",
                steps=[("red", None), ("orange", 0.03), ("green", 0.1)],
            ),
            height=4,
        ),
        Row(
            bars(
                "CPU usage",
                "Of each process; 100 % is one core.",
                [Query(rate("process_cpu_seconds_total", by="instance"), "{{instance}}")],
                unit="percentunit",
            ),
            bars(
                "Memory usage",
                "Of each process. " + alert("MemoryHigh"),
                [Query("process_resident_memory_bytes@", "{{instance}}")],
                unit="bytes",
            ),
            bars(
                "Disk I/O",
                "Of each process, without what the page cache holds.",
                [
                    Query(
                        rate("process_disk_read_bytes_total", by="instance"), "{{instance}} read"
                    ),
                    Query(
                        rate("process_disk_written_bytes_total", by="instance"),
                        "{{instance}} written",
                    ),
                ],
                unit="Bps",
            ),
        ),
        Row(
            bars(
                "Disk free",
                "Of the file system under the data folder. " + alert("DiskNearlyFull"),
                [
                    Query("min(download_disk_free_bytes@)", "free"),
                    Query("max(download_disk_size_bytes@)", "size"),
                ],
                unit="bytes",
            ),
            bars(
                "Temporary files",
                "Of jobs in flight, and what failed ones keep for a retry. At the limit fetching "
                "waits. " + alert("SpoolNearlyFull"),
                [
                    Query("download_spool_bytes@", "{{instance}}"),
                    Query("max(download_spool_limit_bytes@)", "limit of each"),
                ],
                unit="bytes",
            ),
            bars(
                "Open files and connections",
                "Of each process, and how many it may have.",
                [
                    Query("process_open_fds@", "{{instance}}"),
                    Query("min(process_max_fds@)", "limit of each"),
                ],
                unit="short",
            ),
        ),
        Row(
            bars(
                "S3 operations",
                "By what was asked. None where archives lie in a local folder.",
                [Query(rate("s3_operations_total", by="operation"), "{{operation}}")],
                unit="reqps",
            ),
            bars(
                "S3 errors",
                "By code, each explained in docs/operations.md; object_missing and "
                "upload_missing are none. " + alert("StorageErrors"),
                [
                    Query(
                        rate("s3_operations_total", 'status!~"ok|cancelled"', "operation, status"),
                        "{{operation}} {{status}}",
                    )
                ],
                unit="reqps",
            ),
            bars(
                "S3 latency, p95",
                "From a request, with the bytes that it sends, to the head of its answer.",
                [
                    Query(
                        quantile(0.95, "s3_operation_duration_seconds", by="operation"),
                        "{{operation}}",
                    )
                ],
                unit="s",
            ),
        ),
        Row(
            bars(
                "Webhooks",
                "Calls by how they went: failed ones are tried again, “exhausted” was the last "
                "try, “gone” is a receiver that wants no more. " + alert("WebhooksFailing"),
                [Query(f"{rate('webhook_deliveries_total', by='status')} * 60", "{{status}}")],
                unit="cpm",
            ),
            bars(
                "Storage and Redis, as each process sees them",
                "1 is there, 0 is away. " + alert("StorageAway", "RedisAway"),
                [Query("download_dependency_up@", "{{instance}} {{dependency}}")],
                unit="short",
            ),
            table(
                "Processes",
                "Which version runs where, and since when (in the browser's time).",
                Query(
                    "download_info@ * on (instance) group_left process_start_time_seconds@ * 1000",
                    instant=True,
                ),
                unit="dateTimeAsLocal",
            ),
        ),
        Row(
            logs(
                "Warnings and errors of all services",
                "Of those that say a level: the server and nginx.",
                '{level=~"warning|error|critical"}',
            ),
        ),
    ],
)
