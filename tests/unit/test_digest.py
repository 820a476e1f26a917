"""Digests and what they are compared with."""

from __future__ import annotations

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.digest import Digester, verify
from downloadd.errors import ChecksumMismatch, SizeMismatch
from downloadd.model import Source

_DATA = b"what was fetched"
_SHA256 = hashlib.sha256(_DATA).hexdigest()
_MD5 = hashlib.md5(_DATA).hexdigest()
_OTHER_SHA256 = "0" * 64
_OTHER_MD5 = "0" * 32


def _digester(*, md5: bool = True) -> Digester:
    digester = Digester(md5=md5)
    digester.update(_DATA)
    return digester


def _source(
    *, size: int | None = None, sha256: str | None = None, md5: str | None = None
) -> Source:
    return Source(url="https://h.example/?secret", size=size, sha256=sha256, md5=md5)


@given(st.lists(st.binary(max_size=5000)), st.booleans())
def test_same_as_the_standard_library(chunks: list[bytes], md5: bool) -> None:
    """However the bytes come, the digests are those of the whole."""
    digester = Digester(md5=md5)
    for position, chunk in enumerate(chunks):
        digester.update((bytes, bytearray, memoryview)[position % 3](chunk))
    whole = b"".join(chunks)
    assert digester.size == len(whole)
    assert digester.crc32 == zlib.crc32(whole)
    assert digester.sha256 == hashlib.sha256(whole).hexdigest()
    assert digester.md5 == (hashlib.md5(whole).hexdigest() if md5 else None)


def test_what_agrees_passes() -> None:
    """Right sizes and digests, given in either case, raise nothing."""
    verify(_digester(), _source(), {}, announced_size=None)
    verify(
        _digester(),
        _source(size=len(_DATA), sha256=_SHA256.upper(), md5=_MD5.upper()),
        {"sha256": _SHA256, "md5": _MD5},
        announced_size=len(_DATA),
    )


@pytest.mark.parametrize(
    ("source", "announced", "size", "words"),
    [
        (_source(size=1), {}, None, ["has 16 bytes", "the request says 1;"]),
        (_source(), {}, 17, ["has 16 bytes", "source announced 17;"]),
        (_source(size=16), {}, 17, ["source announced 17;"]),
    ],
)
def test_wrong_size(
    source: Source, announced: dict[str, str], size: int | None, words: list[str]
) -> None:
    """A size that differs is told with both numbers and who said it."""
    with pytest.raises(SizeMismatch) as caught:
        verify(_digester(), source, announced, announced_size=size)
    assert all(word in caught.value.message for word in words)
    assert not caught.value.transient


@pytest.mark.parametrize(
    ("source", "announced", "words"),
    [
        (_source(sha256=_OTHER_SHA256), {}, ["SHA-256", _SHA256, f"request says {_OTHER_SHA256}"]),
        (_source(md5=_OTHER_MD5), {}, ["MD5", _MD5, f"request says {_OTHER_MD5}"]),
        (_source(), {"sha256": _OTHER_SHA256}, ["SHA-256", f"source announced {_OTHER_SHA256}"]),
        (_source(sha256=_SHA256), {"md5": _OTHER_MD5}, ["MD5", f"source announced {_OTHER_MD5}"]),
    ],
)
def test_wrong_digest(source: Source, announced: dict[str, str], words: list[str]) -> None:
    """A digest that differs is told with both values and who said it, without the URL."""
    with pytest.raises(ChecksumMismatch) as caught:
        verify(_digester(), source, announced, announced_size=None)
    assert all(word in caught.value.message for word in words)
    assert "secret" not in caught.value.message


def test_size_is_compared_first() -> None:
    """Where size and digest differ, the size says more."""
    with pytest.raises(SizeMismatch):
        verify(_digester(), _source(size=1, sha256=_OTHER_SHA256), {}, announced_size=None)


def test_md5_without_a_digester_for_it() -> None:
    """A caller's MD5 is never passed over; an announced one is where none was computed."""
    verify(_digester(md5=False), _source(), {"md5": _OTHER_MD5}, announced_size=None)
    with pytest.raises(ValueError, match="computes none"):
        verify(_digester(md5=False), _source(md5=_MD5), {}, announced_size=None)
