"""What is written down of a running job."""

import pytest

from downloadd.archive import Entry, Method
from downloadd.pipeline.checkpoint import Checkpoint
from downloadd.ports import Part

CHECKPOINT = Checkpoint(
    key="k",
    upload_id="u",
    entries=(
        Entry(
            index=0,
            name="a.txt",
            method=Method.DEFLATED,
            crc32=7,
            size=10,
            packed_size=5,
            modified=1_800_000_000.0,
        ),
    ),
    parts=(Part(number=1, size=5, etag="e", crc32=9),),
    sealed=True,
    validators={0: '"v"'},
    sha256="0" * 64,
)


def test_what_is_written_is_read_again() -> None:
    """Nothing is lost on the way, the part's CRC included."""
    read = Checkpoint.parse(CHECKPOINT.dump())
    assert read == CHECKPOINT
    assert read is not None
    assert read.parts[0].crc32 == 9


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"version": 99}', '{"version": 3}'])
def test_what_cannot_be_read_is_as_if_there_were_none(text: str) -> None:
    """A checkpoint of another version, or a broken one, makes the job begin anew."""
    assert Checkpoint.parse(text) is None
