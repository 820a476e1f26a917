"""Records to Redis fields and back."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from downloadd.model import (
    Archive,
    Event,
    EventType,
    FileEntry,
    FileStatus,
    Form,
    Job,
    JobStatus,
    Link,
    OnError,
    Options,
    Priority,
    Source,
    Stage,
)
from downloadd.state import codec

TEXT = st.text(st.characters(), min_size=1, max_size=8)  # lone surrogates included
SIZE = st.integers(0, 2**60)
TIME = st.floats(1, 1e11, allow_nan=False)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


SOURCES = st.builds(
    Source,
    url=TEXT,
    file_id=maybe(st.integers(0, 10**8)),
    name=maybe(TEXT),
    sha256=maybe(TEXT),
    md5=maybe(TEXT),
    size=maybe(SIZE),
    headers=st.dictionaries(TEXT, TEXT, max_size=2),
)
OPTIONS = st.builds(
    Options,
    compress=st.booleans(),
    on_error=st.sampled_from(OnError),
    manifest=st.booleans(),
    file_name=maybe(TEXT),
    metadata=st.dictionaries(TEXT, maybe(st.integers()), max_size=2),
    priority=st.sampled_from(Priority),
)
ENTRIES = st.lists(
    st.builds(
        FileEntry,
        index=st.just(0),
        source=SOURCES,
        status=st.sampled_from([FileStatus.COMPLETED, FileStatus.FAILED]),
        name=maybe(TEXT),
        size=maybe(SIZE),
        sha256=maybe(TEXT),
        attempts=st.integers(0, 9),
        bytes_fetched=SIZE,
        fetched_at=maybe(TIME),
        error=maybe(TEXT),
        error_code=maybe(TEXT),
    ),
    max_size=4,
).map(lambda files: tuple(file.evolve(index=index) for index, file in enumerate(files)))
JOBS = st.builds(
    Job,
    id=st.just("j"),
    user=TEXT,
    form=st.sampled_from(Form),
    file_id=maybe(st.integers(10_000, 10**8)),
    options=OPTIONS,
    files=st.just(()),
    total_files=st.integers(0, 1000),
    status=st.sampled_from(JobStatus),
    stage=maybe(st.sampled_from(Stage)),
    progress=st.integers(0, 100),
    files_completed=st.integers(0, 1000),
    files_failed=st.integers(0, 1000),
    current_file=maybe(TEXT),
    bytes_fetched=SIZE,
    bytes_total=maybe(SIZE),
    created_at=TIME,
    updated_at=TIME,
    started_at=st.none(),
    completed_at=maybe(TIME),
    attempts=st.just(0),
    archive=maybe(st.builds(Archive, key=TEXT, size=SIZE, sha256=TEXT, file_name=TEXT)),
    link=maybe(st.builds(Link, url=TEXT, expires_at=TIME)),
    partial=st.booleans(),
    error=maybe(TEXT),
    error_code=maybe(TEXT),
    traceparent=maybe(TEXT),
    run_traceparent=maybe(TEXT),
    estimated_time=st.none(),
    work_left=maybe(st.floats(0.001, 1e6)),
    callback_url=maybe(TEXT),
    queue_position=st.none(),
    cursor=st.none(),
)


def stored(*writes: list[str | float]) -> list[str | None]:
    """What a hash holds after these writes, as the scripts return it."""
    fields: dict[Any, str] = {}
    for flat in writes:
        fields |= {name: str(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}
    return [*(fields.get(name) for name in codec.FIELDS), None]


@given(JOBS)
def test_an_ended_job_comes_back(job: Job) -> None:
    """Every field that is written at creation and at the end is read as it was."""
    assert codec.decode_job("j", stored(codec.encode_new(job), codec.encode_end(job))) == job


@given(ENTRIES)
def test_files_come_back(files: tuple[FileEntry, ...]) -> None:
    """Sources, headers and how each file ended are read as they were."""
    fresh = codec.encode_new(Job(id="j", total_files=1, created_at=1, updated_at=1, files=files))
    spec = str(dict(zip(fresh[::2], fresh[1::2], strict=True))["spec"])
    ended = [str(part) for part in codec.encode_files(files)]
    headers = codec.encode_headers(files)
    assert codec.decode_files(spec, ended, headers=headers) == files
    assert all(not dict(file.source.headers) for file in codec.decode_files(spec, ended))


@given(ENTRIES)
def test_sources_without_headers_leave_none(files: tuple[FileEntry, ...]) -> None:
    """Nothing is kept where there is nothing to keep."""
    bare = [file.evolve(source=file.source.evolve(headers={})) for file in files]
    assert codec.encode_headers(bare) == ""


def test_only_files_in_flight_are_live() -> None:
    """The live field holds those that are being fetched and no other."""
    entry = FileEntry(index=3, source=Source(url="u"), bytes_fetched=5, size=9, attempts=2)
    files = [entry.evolve(status=status, index=index) for index, status in enumerate(FileStatus)]
    assert json.loads(codec.encode_flight(files)) == [[1, 5, 9, 2, None]]


def test_a_published_event_comes_back() -> None:
    """Data may hold spaces; id and type do not."""
    event = Event(type=EventType.FAILED, data={"error": "a b  c"}, id="1-2")
    message = f"{event.id} {event.type.value} {codec.encode_event(event)}"
    assert codec.decode_message(message) == event
    assert codec.decode_entry(["1-2", ["t", "failed", "d", codec.encode_event(event)]]) == event


def test_a_new_job_is_small() -> None:
    """Defaults take no room: a job is its status, times, owner and sources."""
    fields = codec.encode_new(Job(id="j", total_files=0, created_at=1, updated_at=1))
    assert fields[::2] == ["status", "updated_at", "user", "total_files", "created_at", "spec"]
