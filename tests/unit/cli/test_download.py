"""What arrives of an archive, on its way to the disk."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from downloadd.cli.client import ApiClient
from downloadd.cli.download import Expected, Sink, _blocks, _copy, _opened, save, strangers_part
from downloadd.errors import DownloadFailed, ServerUnreachable

DATA = bytes(range(256)) * 4
EXPECTED = Expected(job_id="1", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


async def chunks(pieces: Sequence[bytes], *, then: Exception | None = None) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    if then is not None:
        raise then


class OneByteAtATime(io.BytesIO):
    def write(self, data: object) -> int:
        return super().write(bytes(data)[:1])  # type: ignore[call-overload]


def test_a_sink_writes_all_of_it() -> None:
    """A file that takes less than it is given gets the rest too; the hash is of all bytes."""
    file = OneByteAtATime()
    sink = Sink(file)
    sink.write(DATA)
    assert file.getvalue() == DATA
    assert (sink.position, sink.hexdigest()) == (len(DATA), EXPECTED.sha256)


async def test_what_came_before_an_error_is_kept() -> None:
    """Bytes that were collected when a connection breaks off are written before it is told."""
    broken = _blocks(chunks([b"ab", b"c"], then=ConnectionError()))
    assert await anext(broken) == b"abc"
    with pytest.raises(ConnectionError):
        await anext(broken)


@given(
    cuts=st.lists(st.integers(0, len(DATA)), max_size=5).map(sorted),
    have=st.integers(0, len(DATA) - 1),
    start=st.integers(0, len(DATA) - 1),
)
async def test_any_answer_that_covers_the_rest_completes_it(
    cuts: list[int], have: int, start: int
) -> None:
    """However an answer is cut, and wherever before our place it begins, the file is whole."""
    start = min(start, have)
    sink = Sink(io.BytesIO())
    sink.write(DATA[:have])
    edges = [start, *(max(start, cut) for cut in cuts), len(DATA)]
    pieces = [DATA[a:b] for a, b in itertools.pairwise(edges)]
    await _copy(chunks(pieces), start, EXPECTED, sink, lambda _: None)
    assert sink.hexdigest() == EXPECTED.sha256


async def test_an_early_end_can_be_gone_on_with() -> None:
    """An answer that ends early is a transient error, its bytes are counted."""
    sink = Sink(io.BytesIO())
    with pytest.raises(ServerUnreachable):
        await _copy(chunks([DATA[:10]]), 0, EXPECTED, sink, lambda _: None)
    assert sink.position == 10


@pytest.mark.parametrize(("pieces", "start"), [([DATA, b"x"], 0), ([DATA[5:]], 5)])
async def test_an_answer_that_cannot_be_right_is_refused(pieces: list[bytes], start: int) -> None:
    """More bytes than the archive has, or a gap before them, end the download."""
    with pytest.raises(DownloadFailed):
        await _copy(chunks(pieces), start, EXPECTED, Sink(io.BytesIO()), lambda _: None)


@pytest.mark.parametrize(
    ("note", "held", "kept"),
    [
        (f"{EXPECTED.sha256}\n", b"abc", b"abc"),
        (f"{'0' * 64}\n", b"abc", b""),
        (f"{EXPECTED.sha256}\n", b"x" * (len(DATA) + 1), b""),
        (None, b"", b""),
        (None, None, b""),
    ],
    ids=["ours", "another's", "too long", "empty", "none"],
)
def test_only_this_archives_part_is_gone_on_with(
    tmp_path: Path, note: str | None, held: bytes | None, kept: bytes
) -> None:
    """A part file is used when its note names this archive, and is emptied otherwise."""
    part = tmp_path / "a.zip.part"
    if held is not None:
        part.write_bytes(held)
    if note is not None:
        (tmp_path / "a.zip.part.sha256").write_text(note)
    with _opened(part, EXPECTED) as file:
        assert file.read() == kept
    assert (tmp_path / "a.zip.part.sha256").read_text() == f"{EXPECTED.sha256}\n"


@pytest.mark.parametrize("note", [None, f"{'0' * 64}  a.zip.part\n"], ids=["none", "theirs"])
def test_a_strangers_part_is_kept(tmp_path: Path, note: str | None) -> None:
    """A file of that name that no download has left is refused and unchanged, unless forced."""
    part, beside = tmp_path / "a.zip.part", tmp_path / "a.zip.part.sha256"
    part.write_bytes(b"theirs")
    if note is not None:
        beside.write_text(note)
    assert strangers_part(tmp_path / "a.zip") == part
    with pytest.raises(DownloadFailed, match=r"a\.zip\.part"), _opened(part, EXPECTED):
        pass
    assert part.read_bytes() == b"theirs"
    assert not beside.exists() or beside.read_text() == note
    with _opened(part, EXPECTED, force=True) as file:
        assert file.read() == b""


async def test_what_is_in_the_way_survives_a_refusal(tmp_path: Path) -> None:
    """A part that is not this download's is not removed with it, although nothing is kept."""
    target, part = tmp_path / "a.zip", tmp_path / "a.zip.part"
    part.write_bytes(b"theirs")
    async with ApiClient.open(URL("http://127.0.0.1:1")) as client:
        with pytest.raises(DownloadFailed, match=r"a\.zip\.part"):
            await save(client, EXPECTED, target, lambda _: None, keep=False)
        assert part.read_bytes() == b"theirs"
        part.write_bytes(b"")
        with _opened(part, EXPECTED), pytest.raises(DownloadFailed, match="another download"):
            await save(client, EXPECTED, target, lambda _: None, keep=False)
    assert part.exists()


def test_a_part_has_one_writer(tmp_path: Path) -> None:
    """A second download to the same file is refused while the first goes on."""
    part = tmp_path / "a.zip.part"
    with (
        _opened(part, EXPECTED),
        pytest.raises(DownloadFailed, match="another download"),
        _opened(part, EXPECTED),
    ):
        pass
