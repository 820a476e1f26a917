"""One file on its way: what is tried again, from where, and what is final."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from downloadd.archive import Entry, Method
from downloadd.errors import (
    AddressBlocked,
    ChecksumMismatch,
    DownloaddError,
    FileError,
    FileTooLarge,
    FormatMismatch,
    SizeMismatch,
    SourceChanged,
    SourceRefused,
    SourceTruncated,
    SourceUnavailable,
    SourceUnreachable,
)
from downloadd.model import FileEntry, Source
from downloadd.pipeline import intake
from downloadd.pipeline.fetched import Fetched, Packed
from downloadd.pipeline.fetching import FileFetch
from downloadd.pipeline.intake import Intake
from downloadd.urls import host_of
from tests.fakes import Answer, Script
from tests.origin import content
from tests.unit.pipeline.conftest import Bench

MIB = 1 << 20
MakeBench = Callable[..., Bench]
DATA = content(7, 5 * MIB)
URL = "http://files.example/file.bin"


async def fetch(
    bench: Bench, *, compress: bool = True, packed: Packed | None = None, **source: Any
) -> Fetched:
    entry = FileEntry(index=0, source=Source(url=URL, **source))
    task = FileFetch(
        bench.services.fetch,
        "job",
        entry,
        name="file.bin",
        compress=compress,
        on_bytes=lambda _: None,
        on_fetched=lambda _: None,
        packed=packed,
    )
    try:
        return await task.run()
    finally:
        await task.close()


def in_turn(*answers: Answer | DownloaddError) -> Script:
    rest = list(answers)
    return lambda *_: rest.pop(0)


def payload_bytes(fetched: Fetched) -> bytes:
    return fetched.payload.read_sync(0, fetched.packed_size)


async def test_goes_on_from_the_bytes_already_there(make_bench: MakeBench) -> None:
    """A truncated body is continued by Range with the source's validator; no byte comes twice."""
    broken = SourceTruncated("The body ended early.")
    bench = make_bench(
        in_turn(
            Answer(data=DATA[: 2 * MIB], size=len(DATA), error=broken),
            Answer(data=DATA[2 * MIB : 3 * MIB], offset=2 * MIB, size=len(DATA), error=broken),
            Answer(data=DATA[3 * MIB :], offset=3 * MIB, size=len(DATA)),
        )
    )
    fetched = await fetch(bench)
    assert payload_bytes(fetched) == DATA
    assert fetched.sha256 == hashlib.sha256(DATA).hexdigest()
    assert bench.reader.asked == [(URL, 0, None), (URL, 2 * MIB, '"1"'), (URL, 3 * MIB, '"1"')]
    await fetched.payload.discard()
    assert bench.clean()


async def test_begins_anew_without_a_validator(make_bench: MakeBench) -> None:
    """Bytes are never stitched together where the source cannot tell that they belong together."""
    broken = SourceTruncated("The body ended early.")
    bench = make_bench(
        in_turn(
            Answer(data=DATA[:MIB], size=len(DATA), validator=None, error=broken),
            Answer(data=DATA, size=len(DATA), validator=None),
        )
    )
    assert payload_bytes(await fetch(bench)) == DATA
    assert [offset for _, offset, _ in bench.reader.asked] == [0, 0]


async def test_a_source_that_ignores_the_range_is_read_from_the_start(
    make_bench: MakeBench,
) -> None:
    """An answer with the whole file replaces what was there."""
    other = content(8, 5 * MIB)
    bench = make_bench(
        in_turn(
            Answer(data=DATA[: 2 * MIB], size=len(DATA), error=SourceUnreachable("Lost.")),
            Answer(data=other, size=len(other), validator='"2"'),
        )
    )
    assert payload_bytes(await fetch(bench)) == other


async def test_a_changed_range_begins_anew(make_bench: MakeBench) -> None:
    """A range that is refused, or of another size, drops what was there."""
    bench = make_bench(
        in_turn(
            Answer(data=DATA[:MIB], size=len(DATA), error=SourceUnreachable("Lost.")),
            SourceChanged("416"),
            Answer(data=DATA[:MIB], size=len(DATA), error=SourceUnreachable("Lost.")),
            Answer(data=DATA[MIB:], offset=MIB, size=len(DATA) + 1),
            Answer(data=DATA, size=len(DATA)),
        ),
        retries=4,
    )
    assert payload_bytes(await fetch(bench)) == DATA
    assert [offset for _, offset, _ in bench.reader.asked] == [0, MIB, 0, MIB, 0]


async def test_transient_trouble_is_tried_three_times_more_with_backoff(
    make_bench: MakeBench,
) -> None:
    """Four tries in all, with pauses that double within their jitter; then the error itself."""
    bench = make_bench(lambda *_: SourceUnavailable("The source answered 503."))
    with pytest.raises(SourceUnavailable):
        await fetch(bench)
    assert len(bench.reader.asked) == 4
    for pause, longest in zip(bench.clock.pauses, (1, 2, 4), strict=True):
        assert longest / 2 <= pause <= longest


async def test_tries_that_bring_something_do_not_count(make_bench: MakeBench) -> None:
    """A source that drops every connection still gets its file here, as long as it goes on."""

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        end = min(offset + MIB, len(DATA) * 2)
        error = SourceUnreachable("Lost.") if end < len(DATA) * 2 else None
        data = (DATA * 2)[offset:end]
        return Answer(data=data, offset=offset, size=len(DATA) * 2, error=error)

    bench = make_bench(script, retries=1)
    assert payload_bytes(await fetch(bench)) == DATA * 2
    assert len(bench.reader.asked) == 10


@pytest.mark.parametrize(("first", "then"), [(None, len(DATA)), (len(DATA), None)])
async def test_goes_on_where_one_answer_does_not_tell_the_size(
    make_bench: MakeBench, first: int | None, then: int | None
) -> None:
    """A chunked answer has no length, and a range may be "of *": neither is another file."""
    lost = SourceUnreachable("Lost.")
    bench = make_bench(
        in_turn(
            Answer(data=DATA[: 2 * MIB], size=first, error=lost),
            Answer(data=DATA[2 * MIB :], offset=2 * MIB, size=then),
        )
    )
    assert payload_bytes(await fetch(bench)) == DATA
    assert len(bench.reader.asked) == 2


async def test_a_range_that_ends_early_is_gone_on_with(make_bench: MakeBench) -> None:
    """Also where it did not say how long the whole is: the first answer did."""
    bench = make_bench(
        in_turn(
            Answer(data=DATA[:MIB], size=len(DATA), error=SourceUnreachable("Lost.")),
            Answer(data=DATA[MIB : 2 * MIB], offset=MIB),
            Answer(data=DATA[2 * MIB :], offset=2 * MIB),
        )
    )
    assert payload_bytes(await fetch(bench)) == DATA


async def test_what_the_caller_says_of_the_size_reserves_nothing(make_bench: MakeBench) -> None:
    """Above the limit it is refused before anything is asked; else disk is taken as bytes come."""
    bench = make_bench(lambda *_: Answer(data=DATA))
    with pytest.raises(FileTooLarge):
        await fetch(bench, size=9 * 10**15)
    assert not bench.reader.asked
    most = 0

    class Watched(Answer):
        async def chunks(self):  # type: ignore[no-untyped-def]
            nonlocal most
            async for chunk in super().chunks():
                yield chunk
                most = max(most, bench.spool.disk.used)

    bench = make_bench(lambda *_: Watched(data=DATA))
    with pytest.raises(SizeMismatch):
        await fetch(bench, size=1 << 30)
    assert 0 < most <= 16 * MIB


async def test_a_file_shorter_than_announced_ends_as_truncated(make_bench: MakeBench) -> None:
    """Whole files fetched again are no headway; the lie about the length is what is told."""
    sent = DATA[: 3 * MIB]

    def script(source: Source, offset: int, validator: str | None) -> Answer | DownloaddError:
        if offset:
            return SourceChanged("416")
        return Answer(data=sent, size=len(DATA), error=SourceTruncated("It ended early."))

    bench = make_bench(script)
    with pytest.raises(SourceTruncated):
        await fetch(bench)
    assert len(bench.reader.asked) <= 5
    assert bench.clean()


async def test_retry_after_is_honoured(make_bench: MakeBench) -> None:
    """A source that names a pause gets it; one that asks for too much has answered for good."""
    bench = make_bench(
        in_turn(SourceUnavailable("429", retry_after=7), Answer(data=b"ok", size=2)),
    )
    await fetch(bench)
    assert bench.clock.pauses == [7]
    bench = make_bench(lambda *_: SourceUnavailable("429", retry_after=3600))
    with pytest.raises(SourceUnavailable):
        await fetch(bench)
    assert len(bench.reader.asked) == 1


@pytest.mark.parametrize("error", [SourceRefused("404"), AddressBlocked("No.")])
async def test_final_answers_are_not_tried_again(make_bench: MakeBench, error: FileError) -> None:
    """What trying again cannot mend is said at once."""
    bench = make_bench(lambda *_: error)
    with pytest.raises(type(error)):
        await fetch(bench)
    assert len(bench.reader.asked) == 1
    assert not bench.clock.pauses


@pytest.mark.parametrize("size", [100, 3 * MIB])
@pytest.mark.parametrize(
    ("source", "answer", "error"),
    [
        ({"sha256": "0" * 64}, {}, ChecksumMismatch),
        ({"md5": "0" * 32}, {}, ChecksumMismatch),
        ({"size": 7}, {}, SizeMismatch),
        ({"size": 7}, {"size": None}, SizeMismatch),
        ({}, {"digests": {"sha256": "0" * 64}}, ChecksumMismatch),
        ({}, {"digests": {"md5": "0" * 32}}, ChecksumMismatch),
    ],
)
async def test_what_was_promised_is_checked(
    make_bench: MakeBench,
    size: int,
    source: dict[str, Any],
    answer: dict[str, Any],
    error: type[FileError],
) -> None:
    """Checksums and sizes, given or announced, are compared; a mismatch is final and clean."""
    data = DATA[:size]
    bench = make_bench(lambda *_: Answer(**{"data": data, "size": len(data)} | answer))
    with pytest.raises(error):
        await fetch(bench, **source)
    assert len(bench.reader.asked) == 1
    assert bench.clean()


async def test_given_checksums_that_are_right_pass(make_bench: MakeBench) -> None:
    """SHA-256, MD5 and size that agree are no obstacle."""
    bench = make_bench(lambda *_: Answer(data=DATA, size=len(DATA)))
    md5 = hashlib.md5(DATA).hexdigest()
    await fetch(bench, sha256=hashlib.sha256(DATA).hexdigest(), md5=md5, size=len(DATA))


async def test_a_stitched_file_with_a_wrong_checksum_is_fetched_once_more(
    make_bench: MakeBench,
) -> None:
    """Bytes from two answers that do not add up may be two files': the whole is tried again."""
    other = content(9, len(DATA))
    bench = make_bench(
        in_turn(
            Answer(data=other[: 2 * MIB], size=len(DATA), error=SourceUnreachable("Lost.")),
            Answer(data=DATA[2 * MIB :], offset=2 * MIB, size=len(DATA)),
            Answer(data=DATA, size=len(DATA)),
        )
    )
    fetched = await fetch(bench, sha256=hashlib.sha256(DATA).hexdigest())
    assert payload_bytes(fetched) == DATA


@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_over_the_limit_ends_at_once(make_bench: MakeBench, announced: bool) -> None:
    """The size limit holds for what is announced and for what comes."""
    bench = make_bench(
        lambda *_: Answer(data=DATA, size=len(DATA) if announced else None),
        max_file_bytes=3 * MIB,
    )
    with pytest.raises(FileTooLarge):
        await fetch(bench)
    assert len(bench.reader.asked) == 1
    assert bench.clean()


async def test_format_check(make_bench: MakeBench) -> None:
    """A page of HTML that calls itself a PDF is refused where the check says "reject"."""
    page = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    answer = Answer(data=page, size=len(page), file_name="a.pdf", content_type="application/pdf")
    bench = make_bench(lambda *_: answer, format_check="reject")
    with pytest.raises(FormatMismatch):
        await fetch(bench)
    bench = make_bench(lambda *_: answer, format_check="warn")
    assert (await fetch(bench)).size == len(page)


@pytest.mark.parametrize("size", [40_000, 3 * MIB])
async def test_what_shrinks_is_deflated(make_bench: MakeBench, size: int) -> None:
    """Text is deflated, random bytes are stored, and nothing is when the caller says so."""
    text, noise = content(1, size, "text"), content(1, size)
    bench = make_bench(lambda *_: Answer(data=text, size=size))
    fetched = await fetch(bench)
    assert fetched.method == 8
    assert fetched.packed_size < size / 2
    assert (await fetch(bench, compress=False)).method == 0
    bench = make_bench(lambda *_: Answer(data=noise, size=size))
    assert (await fetch(bench)).method == 0


@pytest.mark.parametrize("chunk", [1, 999, 65_536, 300_000])
async def test_packed_bytes_do_not_depend_on_how_they_came(
    make_bench: MakeBench, chunk: int
) -> None:
    """However the network cuts a file, its packed bytes are the same: parts can be made again."""
    size = 70_000 if chunk == 1 else 2 * MIB
    text = content(1, size, "text")
    bench = make_bench(lambda *_: Answer(data=text, size=size, chunk=chunk))
    again = make_bench(lambda *_: Answer(data=text, size=None, chunk=123_457))
    assert payload_bytes(await fetch(bench)) == payload_bytes(await fetch(again))


async def test_only_what_the_last_request_brought_is_its_pace(make_bench: MakeBench) -> None:
    """Of a file that came in two requests, with a pause between, the second one is measured."""
    broken = SourceUnreachable("The connection was lost.")
    bench = make_bench(
        in_turn(
            Answer(data=DATA[:MIB], size=len(DATA), error=broken),
            Answer(data=DATA[MIB:], offset=MIB, size=len(DATA)),
        )
    )
    transfer = (await fetch(bench)).transfer
    assert transfer is not None
    assert (transfer.size, transfer.received) == (len(DATA), len(DATA) - MIB)
    assert transfer.host == host_of(URL)
    assert sum(bench.clock.pauses) > 0
    assert (transfer.latency, transfer.seconds) == (0.0, 0.0)  # the bench's time stands still


async def test_a_simulated_delay_comes_once(make_bench: MakeBench) -> None:
    """A file is held back before its first request; what is tried again or gone on with is not."""
    broken = SourceTruncated("The body ended early.")
    bench = make_bench(
        in_turn(
            Answer(data=DATA[: 2 * MIB], size=len(DATA), error=broken),
            Answer(data=DATA[2 * MIB :], offset=2 * MIB, size=len(DATA)),
        ),
        delay=(40.0, 50.0),
    )
    fetched = await fetch(bench)
    first, second = bench.clock.pauses
    assert 40 <= first <= 50
    assert second <= 1
    assert fetched.transfer is not None
    entry = Entry(
        index=0,
        name="file.bin",
        method=Method.STORED,
        crc32=fetched.crc32,
        size=len(DATA),
        packed_size=len(DATA),
        modified=0,
    )
    await fetched.payload.discard()
    bench.clock.pauses.clear()
    bench.reader.script = in_turn(Answer(data=DATA[MIB:], offset=MIB, size=len(DATA)))
    packed = Packed(entry=entry, sha256=fetched.sha256, stored=MIB, validator='"1"')
    await (await fetch(bench, packed=packed)).payload.discard()
    assert bench.clock.pauses == []


async def test_many_small_pieces_do_not_pile_up(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that come two by two would take thirty times their room until they are many."""
    monkeypatch.setattr(intake, "MANY_CHUNKS", 100)
    take = Intake.take
    waiting: list[int] = []

    async def counted(self: Intake, chunk: bytes) -> None:
        await take(self, chunk)
        if self._absorber is not None:
            waiting.append(len(self._waiting))

    monkeypatch.setattr(Intake, "take", counted)
    data = DATA[:200_000]
    fetched = await fetch(make_bench(in_turn(Answer(data, size=len(data), chunk=20))))
    assert fetched.size == len(data)
    assert max(waiting) < 100
    assert len(waiting) > 5000
