"""What a job is at its end."""

from __future__ import annotations

from downloadd.errors import DownloaddError
from downloadd.model import Job, JobStatus


def completed(job: Job, now: float) -> Job:
    """The job as it has gone well; ``now`` is a time stamp."""
    return job.moved(
        JobStatus.COMPLETED, stage=None, progress=100, completed_at=now, updated_at=now
    )


def failed(job: Job, error: DownloaddError, now: float) -> Job:
    """The job as it has failed for this reason."""
    return job.moved(
        JobStatus.FAILED,
        stage=None,
        completed_at=now,
        updated_at=now,
        error=error.message,
        error_code=error.code,
    )


def used_up(error: DownloaddError, times: int) -> DownloaddError:
    """The same error, saying that the job was tried again as often as it may be."""
    if times == 0:
        return error
    return type(error)(
        f"{error.message} The job was tried again {times} times; "
        "it can be retried when the trouble is over.",
        retry_after=error.retry_after,
    )
