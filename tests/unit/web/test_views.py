"""The job resource (SPEC §2)."""

from __future__ import annotations

import uuid
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from downloadd.model import (
    Archive,
    FileEntry,
    FileStatus,
    Form,
    Job,
    JobStatus,
    Link,
    Source,
    Stage,
)
from downloadd.web.views import (
    Case,
    file_view,
    in_case,
    job_view,
    managed_view,
    progress_view,
    snake,
)

BASE: dict[str, Any] = {
    "id": str(uuid.uuid4()),
    "total_files": 1,
    "created_at": 1_700_000_000.0,
    "updated_at": 1_700_000_000.5,
}
FILE = FileEntry(index=0, source=Source(url="https://u:p@files.example/a?sig=secret#x"))


def test_what_is_not_known_is_left_out() -> None:
    """A new job says little; two fields alone are null until they are known."""
    view = job_view(Job(**BASE, queue_position=3, files=(FILE,)))
    assert view["status"] == "queued"
    assert view["queuePosition"] == 3
    assert view["bytesTotal"] is None
    nulls = [name for name, value in view.items() if value is None]
    assert nulls == ["bytesTotal", "estimatedTimeRemaining"]
    absent = {"stage", "startedAt", "completedAt", "downloadUrl", "error", "files", "partial"}
    assert not absent & set(view)


def test_a_running_job() -> None:
    """The stage is there while a job is processing; files where they are asked for."""
    file = FILE.evolve(status=FileStatus.FETCHING, bytes_fetched=7)
    job = Job(
        **BASE,
        status=JobStatus.PROCESSING,
        stage=Stage.FETCHING,
        queue_position=3,
        files=(file,),
        started_at=1_700_000_001.0,
    )
    view = job_view(job, files=True)
    assert view["stage"] == "fetching"
    assert view["startedAt"] == "2023-11-14T22:13:21.000Z"
    assert "queuePosition" not in view
    assert view["files"][0]["bytesFetched"] == 7
    assert "files" not in job_view(job)


def test_a_completed_job() -> None:
    """The archive and its link are there, the time it took in milliseconds."""
    job = Job(
        **BASE,
        status=JobStatus.COMPLETED,
        progress=100,
        stage=Stage.FINISHING,
        started_at=1_700_000_001.0,
        completed_at=1_700_000_002.25,
        archive=Archive(key="k.zip", size=5, sha256="a" * 64, file_name="order.zip"),
        link=Link(url="https://s3.example/k.zip?sig", expires_at=1_700_003_600.0),
    )
    view = job_view(job)
    assert view["processingTimeMs"] == 1250
    assert view["totalSize"] == 5
    assert view["fileName"] == "order.zip"
    assert view["downloadUrl"] == "https://s3.example/k.zip?sig"
    assert view["expiresAt"].endswith("Z")
    assert view["partial"] is False
    assert "stage" not in view


def test_an_expired_job_has_no_link() -> None:
    """An archive that was removed is not offered."""
    archive = Archive(key="k.zip", size=5, sha256="a" * 64, file_name="order.zip")
    view = job_view(Job(**BASE, status=JobStatus.EXPIRED, archive=archive))
    assert "downloadUrl" not in view
    assert "totalSize" not in view


def test_file_urls_are_redacted() -> None:
    """Neither user, password, query values nor fragment are shown."""
    assert file_view(FILE)["originalUrl"] == "https://files.example/a?sig=***"
    assert file_view(FILE)["fileId"] == "1"


JOBS = st.integers(1, 1000).flatmap(
    lambda total: st.integers(0, total).flatmap(
        lambda settled: st.builds(
            Job,
            id=st.just("j"),
            total_files=st.just(total),
            files_completed=st.integers(0, settled),
            files_failed=st.just(0),
            progress=st.integers(0, 100),
            status=st.sampled_from([JobStatus.QUEUED, JobStatus.PROCESSING, JobStatus.FAILED]),
            created_at=st.just(1.0),
            updated_at=st.just(1.0),
            work_left=st.none() | st.floats(0.001, 1e6),
            wait=st.none() | st.floats(0, 1e6),
        ),
    ),
)


@given(JOBS)
def test_progress_agrees_with_the_job(job: Job) -> None:
    """The manager's numbers are the job's own, its time to go in milliseconds."""
    view = progress_view(job)
    assert 0 <= view["current"] <= view["total"] == job.total_files
    assert view["percentage"] == job.progress
    told = job_view(job).get("estimatedTimeRemaining")
    assert view["estimatedTimeRemaining"] == (None if told is None else told * 1000)


@given(JOBS, st.sampled_from(Form))
def test_both_cases_say_the_same(job: Job, form: Form) -> None:
    """Snake case changes names alone, loses none, and is what a single file's job speaks."""
    view = job_view(job.evolve(form=form))
    written = snake(view)
    assert list(written.values()) == list(view.values())
    assert all(name == name.lower() for name in written)
    assert in_case(view, job.evolve(form=form)) == (written if form is Form.FILE else view)
    assert in_case(view, job, Case.SNAKE) == written


def test_files_without_an_id_are_numbered() -> None:
    """The manager's files have a number always; what is under way is pending."""
    file = FILE.evolve(status=FileStatus.FETCHING)
    view = managed_view(Job(**BASE, files=(file,)))
    assert view["filesProcessed"] == [{"file_id": 1, "status": "pending"}]
