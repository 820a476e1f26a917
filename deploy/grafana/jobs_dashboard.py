"""What the design documents draw as "Download Jobs"."""

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
from promql import percentiles, rate

_JOB_SECONDS = "download_processing_seconds"
_SIZES = (
    ("below 1 MB", "size < 1000000"),
    ("1 to 10 MB", "size >= 1000000 and size < 10000000"),
    ("10 to 100 MB", "size >= 10000000 and size < 100000000"),
    ("0.1 to 1 GB", "size >= 100000000 and size < 1000000000"),
    ("1 GB and more", "size >= 1000000000"),
)


def _by_size(filtered: str) -> str:
    return (
        'quantile_over_time(0.5, {service="app"} |= "job.completed"'
        ' | json event="message", size="bytes", took="seconds"'
        f' | event="job.completed" | {filtered}'
        ' | unwrap took | __error__="" [$__range]) by ()'
    )


JOBS = Dashboard(
    uid="downloadd-jobs",
    title="downloadd: download jobs",
    about="Jobs: how many wait, how long they take, and why they fail.",
    rows=[
        Row(
            stat(
                "Queue depth",
                "Jobs that wait, in all processes; nothing while Redis does not say. "
                + alert("HighQueueDepth", "QueueFull"),
                [Query("max(download_queue_depth@)")],
                unit="short",
                steps=colours(500, 1000),
            ),
            stat(
                "Processing",
                "Jobs that are worked on now. " + alert("NoActiveWorkers"),
                [Query("sum(downloads_active@)")],
                unit="short",
            ),
            stat(
                "Success rate",
                "Completed of those that completed or failed, in the time that is shown. "
                + alert("HighFailureRate"),
                [
                    Query(
                        'sum(increase(downloads_total@{status="completed"}[$__range]))'
                        ' / sum(increase(downloads_total@{status=~"completed|failed"}[$__range]))'
                    )
                ],
                unit="percentunit",
                steps=[("red", None), ("orange", 0.9), ("green", 0.99)],
            ),
            stat(
                "Workers that are busy",
                "Of jobs.concurrency in all processes.",
                [Query("sum(download_active_workers@) / sum(download_workers@)")],
                unit="percentunit",
            ),
            height=4,
        ),
        Row(
            bars(
                "Job processing time by file size",
                "Half of the jobs that fetched so many bytes were completed within this time, "
                "over the time that is shown. From the lines job.completed, so only with Loki.",
                [
                    Query(_by_size(filtered), name, source="loki", instant=True)
                    for name, filtered in _SIZES
                ],
                unit="s",
                kind="bargauge",
            ),
        ),
        Row(
            bars(
                "Queue depth",
                "One queue for all processes. At the limit new jobs get 503 queue_full.",
                [
                    Query("max(download_queue_depth@)", "jobs that wait"),
                    Query("min(download_queue_limit@)", "limit"),
                ],
                unit="short",
            ),
            bars(
                "Wait",
                "Time that jobs waited for a worker.",
                percentiles("download_queue_wait_seconds"),
                unit="s",
            ),
        ),
        Row(
            bars(
                "Processing time",
                "From a job's first start to its end, of completed ones. "
                + alert("SlowProcessing"),
                percentiles(_JOB_SECONDS, 'status="completed"'),
                unit="s",
            ),
            bars(
                "Jobs that ended",
                "By how. " + alert("HighFailureRate"),
                [Query(f"{rate('downloads_total', by='status')} * 60", "{{status}}")],
                unit="cpm",
            ),
        ),
        Row(
            bars(
                "Jobs made, by kind of user",
                "By role; “anonymous” has none. Who makes the most is in the table below.",
                [
                    Query(
                        f"{rate('downloads_initiated_total', by='user_type')} * 60",
                        "{{user_type}}",
                    )
                ],
                unit="cpm",
            ),
            bars(
                "Workers",
                "Each process works on jobs.concurrency jobs at once.",
                [
                    Query("sum by (instance) (download_active_workers@)", "{{instance}}"),
                    Query("sum(download_workers@)", "all there are"),
                ],
                unit="short",
            ),
        ),
        Row(
            bars(
                "Files that failed, by code",
                "For good, after all tries. Each code has its entry in docs/operations.md.",
                [Query(f"{rate('download_file_failures_total', by='code')} * 60", "{{code}}")],
                unit="cpm",
            ),
            bars(
                "Tries after the first",
                "Of fetches, of requests to the storage, of whole jobs, of webhooks.",
                [Query(f"{rate('download_retries_total', by='stage')} * 60", "{{stage}}")],
                unit="cpm",
            ),
            bars(
                "Bytes",
                "From sources (in) and to the storage (out).",
                [Query(rate("download_bytes_total", by="direction"), "{{direction}}")],
                unit="Bps",
            ),
        ),
        Row(
            table(
                "Users who made the most requests for jobs",
                "Requests to the calls that make jobs, by user, in the time that is shown. From "
                "the server's log, so only with Loki; anonymous callers count as one.",
                Query(
                    'topk(10, sum by (userId) (count_over_time({service="app"}'
                    ' |= "http.request" | json event="message", userId="userId", method="method",'
                    ' path="path" | event="http.request" | method="POST"'
                    ' | path=~"/v1/(download/(initiate|start)|export)" | __error__=""'
                    " [$__range])))",
                    source="loki",
                    instant=True,
                ),
            ),
            logs(
                "Jobs that failed, and why",
                "From the server's log: the code and the sentence that the caller is told.",
                '{service="app"} |= "job.failed"',
            ),
        ),
    ],
)
