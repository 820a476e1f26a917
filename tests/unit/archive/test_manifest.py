"""manifest.json: what it says and what it keeps to itself."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from downloadd.archive import manifest
from downloadd.model import FileEntry, FileStatus, Job, Options, Source

_SHA = "ab" * 32

_JOB = Job(
    id="b7b1d2f0-0000-4000-8000-000000000000",
    options=Options(metadata={"order": "4711", "für": ["ä", 1]}),
    total_files=2,
    created_at=1_700_000_000.0,
    updated_at=1_700_000_001.0,
    files=(
        FileEntry(
            index=0,
            source=Source(url="https://u:secret@h.example/a.pdf?sig=secret", file_id=70000),
            status=FileStatus.COMPLETED,
            name="a.pdf",
            size=12,
            sha256=_SHA,
            fetched_at=1_700_000_002.5,
        ),
        FileEntry(
            index=1,
            source=Source(url="https://h.example/b", headers={"Authorization": "secret"}),
            status=FileStatus.FAILED,
            error="The source says 404 Not Found.",
            error_code="source_refused",
        ),
    ),
)


def test_every_file_is_described() -> None:
    """Fetched files have size, checksum and time; missing ones say why."""
    assert json.loads(manifest(_JOB)) == {
        "jobId": "b7b1d2f0-0000-4000-8000-000000000000",
        "createdAt": "2023-11-14T22:13:20.000Z",
        "metadata": {"order": "4711", "für": ["ä", 1]},
        "totalFiles": 2,
        "filesCompleted": 1,
        "filesFailed": 1,
        "totalBytes": 12,
        "files": [
            {
                "fileId": 70000,
                "name": "a.pdf",
                "url": "https://h.example/a.pdf?sig=***",
                "status": "completed",
                "size": 12,
                "sha256": _SHA,
                "fetchedAt": "2023-11-14T22:13:22.500Z",
            },
            {
                "fileId": None,
                "name": None,
                "url": "https://h.example/b",
                "status": "failed",
                "error": "The source says 404 Not Found.",
                "errorCode": "source_refused",
            },
        ],
    }


def test_same_job_same_bytes() -> None:
    """The manifest depends on what is in the archive, not on the job's later state."""
    later = _JOB.evolve(updated_at=2e9, progress=99, attempts=3)
    assert manifest(later) == manifest(_JOB)


def test_readable_and_without_secrets() -> None:
    """It is indented UTF-8 with plain letters, ends with a newline, and holds no secret."""
    text = manifest(_JOB).decode()
    assert '\n  "metadata": {\n    "order": "4711",\n    "für"' in text
    assert text.endswith("}\n")
    assert "secret" not in text


@given(st.text())
def test_any_text_survives(text: str) -> None:
    """Metadata of any characters, lone surrogates included, is read back the same."""
    job = _JOB.evolve(options=Options(metadata={text: text}))
    assert json.loads(manifest(job).decode("utf-8"))["metadata"] == {text: text}
