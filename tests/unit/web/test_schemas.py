"""The rules of the body of initiate, broken one at a time."""

from __future__ import annotations

from typing import Any

import pytest

from downloadd.errors import AddressBlocked, UnsupportedOption, ValidationError
from downloadd.model import OnError, Options, Priority, Source
from downloadd.web.schemas import InitiateReader

URL = "https://files.example/a.pdf"


def refuse_private(url: str) -> None:
    if "10.0.0.1" in url:
        raise AddressBlocked("This address may not be fetched.", reason="secret reason")


def stored(file_id: int) -> Source:
    return Source(url=f"storage:///{file_id}.zip", key=f"{file_id}.zip", file_id=file_id)


@pytest.fixture(scope="module")
def reader() -> InitiateReader:
    return InitiateReader(max_files=5, check_url=refuse_private, locate=stored)


def one(**file: Any) -> dict[str, Any]:
    return {"files": [{"url": URL, **file}]}


def options(**given: Any) -> dict[str, Any]:
    return {"source_urls": [URL], "options": given}


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({}, "source_urls"),
    ({"colour": "red", "source_urls": [URL]}, "colour"),
    ({"_schema": 1, "source_urls": [URL]}, "_schema"),
    ({"": 1, "source_urls": [URL]}, ""),
    ({"source_urls": []}, "source_urls"),
    ({"source_urls": [URL] * 6}, "source_urls"),
    ({"source_urls": URL}, "source_urls"),
    ({"source_urls": None}, "source_urls"),
    ({"source_urls": [URL, 7]}, "source_urls.1"),
    ({"source_urls": [URL, None]}, "source_urls.1"),
    ({"source_urls": [URL, ""]}, "source_urls.1"),
    ({"source_urls": [URL, "http://10.0.0.1/"]}, "source_urls.1"),
    ({"source_urls": ["https://files.example/" + "a" * 2048]}, "source_urls.0"),
    ({"file_ids": [70000, 70001], "source_urls": [URL]}, "source_urls"),
    ({"file_ids": [70000], "source_urls": [URL, URL]}, "source_urls"),
    ({"file_ids": [70000, 70000], "source_urls": [URL, URL]}, "file_ids.1"),
    ({"file_ids": [9999], "source_urls": [URL]}, "file_ids.0"),
    ({"file_ids": [100_000_001], "source_urls": [URL]}, "file_ids.0"),
    ({"file_ids": [70000.0], "source_urls": [URL]}, "file_ids.0"),
    ({"file_ids": ["70000"], "source_urls": [URL]}, "file_ids.0"),
    ({"file_ids": [True], "source_urls": [URL]}, "file_ids.0"),
    ({"file_ids": {"0": 70000}, "source_urls": [URL]}, "file_ids"),
    ({"file_ids": [], "source_urls": [URL]}, "file_ids"),
    ({"file_ids": []}, "file_ids"),
    ({"file_ids": [70000, 70001, 70000]}, "file_ids.2"),
    ({"file_ids": [9999]}, "file_ids.0"),
    ({"file_id": 9999}, "file_id"),
    ({"file_id": 1, "source_urls": [URL]}, "file_id"),
    ({"file_id": 70000, "source_urls": [URL, URL]}, "source_urls"),
    ({"file_id": 70000, "file_ids": [70000], "source_urls": [URL]}, "file_id"),
    ({"files": []}, "files"),
    ({"files": [URL]}, "files.0"),
    ({"files": [{"url": URL}] * 6}, "files"),
    ({"files": [{"url": URL}], "source_urls": [URL]}, "source_urls"),
    ({"files": [{"url": URL}], "file_ids": [70000]}, "file_ids"),
    (
        {"files": [{"url": URL, "file_id": 70000}, {"url": URL, "file_id": 70000}]},
        "files.1.file_id",
    ),
    ({"files": [{"name": "a"}]}, "files.0.url"),
    (one(colour="red"), "files.0.colour"),
    (one(_schema=1), "files.0._schema"),
    (one(**{"": 1}), "files.0."),
    (one(url="http://10.0.0.1/"), "files.0.url"),
    (one(file_id=9999), "files.0.file_id"),
    (one(name=""), "files.0.name"),
    (one(name="../.."), "files.0.name"),
    (one(name="a" * 1025), "files.0.name"),
    (one(name=["a"]), "files.0.name"),
    (one(sha256="abc"), "files.0.sha256"),
    (one(sha256="g" * 64), "files.0.sha256"),
    (one(md5="a" * 31), "files.0.md5"),
    (one(size=-1), "files.0.size"),
    (one(size="7"), "files.0.size"),
    (one(size=1.5), "files.0.size"),
    (one(headers=["Accept"]), "files.0.headers"),
    (one(headers={"X": "a\r\nHost: b"}), "files.0.headers.X"),
    (one(headers={"X": "a\n"}), "files.0.headers.X"),
    (one(headers={"X": 7}), "files.0.headers.X"),
    (one(headers={"X": "ä"}), "files.0.headers.X"),
    (one(headers={"X Y": "a"}), "files.0.headers.X Y"),
    (one(headers={"": "a"}), "files.0.headers."),
    (one(headers={"_schema": 7}), "files.0.headers._schema"),
    (one(headers={"host": "a"}), "files.0.headers.host"),
    (one(headers={"Content-Length": "7"}), "files.0.headers.Content-Length"),
    (one(headers={"RANGE": "bytes=0-"}), "files.0.headers.RANGE"),
    (one(headers={"Transfer-Encoding": "chunked"}), "files.0.headers.Transfer-Encoding"),
    (one(headers={"X": "a", "x": "b"}), "files.0.headers"),
    (one(headers={f"X{n}": "a" for n in range(21)}), "files.0.headers"),
    (one(headers={"X": "a" * 3000, "Y": "a" * 3000}), "files.0.headers"),
    ({"source_urls": [URL], "options": []}, "options"),
    ({"source_urls": [URL], "options": None}, "options"),
    (options(_schema=1), "options._schema"),
    (options(compress="true"), "options.compress"),
    (options(compress=1), "options.compress"),
    (options(format="tar"), "options.format"),
    (options(format=None), "options.format"),
    (options(watermark="no"), "options.watermark"),
    (options(onError="ignore"), "options.onError"),
    (options(manifest=0), "options.manifest"),
    (options(fileName=""), "options.fileName"),
    (options(fileName="a" * 256), "options.fileName"),
    (options(fileName=".."), "options.fileName"),
    (options(metadata=[]), "options.metadata"),
    (options(metadata={"a": "x" * 4096}), "options.metadata"),
    (options(priority="urgent"), "options.priority"),
    (options(dedupe="no"), "options.dedupe"),
    (options(onerror="skip"), "options.onerror"),
    ({"source_urls": [URL], "callback_url": 7}, "callback_url"),
]


@pytest.mark.parametrize(("body", "field"), BROKEN)
def test_each_broken_rule_names_its_field(
    reader: InitiateReader, body: dict[str, Any], field: str
) -> None:
    """A body that breaks one rule is refused, and exactly that field is named."""
    with pytest.raises(ValidationError) as caught:
        reader.read(body)
    assert list(caught.value.details) == [field]
    assert all(text for texts in caught.value.details.values() for text in texts)
    assert "secret reason" not in str(caught.value.details)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (options(watermark=True), "options.watermark"),
    ],
)
def test_what_is_not_built_is_refused_by_name(
    reader: InitiateReader, body: dict[str, Any], field: str
) -> None:
    """Documented options that are not built are refused, never accepted and ignored."""
    with pytest.raises(UnsupportedOption) as caught:
        reader.read(body)
    assert list(caught.value.details) == [field]


def test_callbacks_can_be_off() -> None:
    """A server that cannot sign takes no callback_url, and says so; null is none."""
    reader = InitiateReader(max_files=5, check_url=lambda url: url, locate=stored, callbacks=False)
    with pytest.raises(UnsupportedOption) as caught:
        reader.read({"source_urls": [URL], "callback_url": "https://app.example/hook"})
    assert list(caught.value.details) == ["callback_url"]
    assert reader.read({"source_urls": [URL], "callback_url": None}).callback_url is None


def test_metadata_has_a_depth_that_ends(reader: InitiateReader) -> None:
    """Metadata nested beyond 32 levels is refused."""
    nested: dict[str, Any] = {}
    for _ in range(40):
        nested = {"a": nested}
    with pytest.raises(ValidationError) as caught:
        reader.read(options(metadata=nested))
    assert list(caught.value.details) == ["options.metadata"]


def test_at_most_fifty_errors_are_listed() -> None:
    """A body of a thousand faults gets an answer of bounded size."""
    reader = InitiateReader(max_files=1000, check_url=refuse_private, locate=stored)
    with pytest.raises(ValidationError) as caught:
        reader.read({"source_urls": [7] * 1000})
    assert len(caught.value.details) == 50


@pytest.mark.parametrize(
    ("body", "sources"),
    [
        ({"source_urls": [URL]}, [Source(url=URL)]),
        ({"file_ids": [70001, 70000]}, [stored(70001), stored(70000)]),
        ({"file_id": 70000}, [stored(70000)]),
        ({"source_urls": [URL, URL]}, [Source(url=URL), Source(url=URL)]),
        (
            {"file_ids": [70000, 10000], "source_urls": [URL, URL + "?b"]},
            [Source(url=URL, file_id=70000), Source(url=URL + "?b", file_id=10000)],
        ),
        ({"file_id": 100_000_000, "source_urls": [URL]}, [Source(url=URL, file_id=100_000_000)]),
        (
            one(
                file_id=70000,
                name="dir/ä.pdf",
                sha256="A" * 64,
                md5="B" * 32,
                size=0,
                headers={"Authorization": "Bearer x"},
            ),
            [
                Source(
                    url=URL,
                    file_id=70000,
                    name="dir/ä.pdf",
                    sha256="a" * 64,
                    md5="b" * 32,
                    size=0,
                    headers={"Authorization": "Bearer x"},
                ),
            ],
        ),
    ],
)
def test_every_form_gives_its_sources(
    reader: InitiateReader, body: dict[str, Any], sources: list[Source]
) -> None:
    """Each documented form of the body says the same thing in its own way."""
    assert list(reader.read(body).sources) == sources


def test_options_are_taken_over(reader: InitiateReader) -> None:
    """Every option of the SPEC's example reaches the job."""
    body = options(
        compress=False,
        format="zip",
        watermark=False,
        onError="skip",
        manifest=True,
        fileName="order-4711.zip",
        metadata={"order": "4711"},
        priority="high",
        dedupe=False,
    )
    read = reader.read({**body, "callback_url": "https://app.example/hook"})
    assert read.callback_url == "https://app.example/hook"
    assert read.options == Options(
        compress=False,
        on_error=OnError.SKIP,
        manifest=True,
        file_name="order-4711.zip",
        metadata={"order": "4711"},
        priority=Priority.HIGH,
    )
    assert read.dedupe is False


def test_defaults_are_those_of_the_model(reader: InitiateReader) -> None:
    """Without options, a job has the documented defaults and is deduplicated."""
    read = reader.read({"source_urls": [URL]})
    assert read.options == Options()
    assert read.dedupe is True
