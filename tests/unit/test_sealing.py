"""What is sealed can be neither read, nor changed, nor moved."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.sealing import KEY_BYTES, SealBroken, Sealer, derived

SEALER = Sealer(b"k" * 32)


@given(st.text(), st.text(max_size=40))
def test_it_opens_where_it_was_sealed(text: str, place: str) -> None:
    place = place.encode("utf-8", "replace").decode()
    text = text.encode("utf-8", "replace").decode()
    sealed = SEALER.seal(text, place)
    assert SEALER.open(sealed, place) == text
    assert len(text) < 8 or text not in sealed


def test_the_same_text_looks_different_each_time() -> None:
    assert SEALER.seal("a", "p") != SEALER.seal("a", "p")


def test_elsewhere_and_with_another_key_it_does_not() -> None:
    sealed = SEALER.seal("secret", "job a")
    for sealer, place in ((SEALER, "job b"), (Sealer(b"x" * 32), "job a")):
        with pytest.raises(SealBroken):
            sealer.open(sealed, place)


def test_every_changed_byte_is_noticed() -> None:
    """And so is everything that was never sealed: clear text of older versions, too."""
    raw = base64.b64decode(SEALER.seal("secret", "p").removeprefix("1:"))
    for place in range(len(raw)):
        changed = bytes([*raw[:place], raw[place] ^ 1, *raw[place + 1 :]])
        with pytest.raises(SealBroken):
            SEALER.open("1:" + base64.b64encode(changed).decode(), "p")
    for text in ("", "1:", "1:AAAA", '{"0": {"Cookie": "x"}}', "1:é", "2:" + "A" * 60):
        with pytest.raises(SealBroken):
            SEALER.open(text, "p")


def test_keys_for_different_purposes_differ() -> None:
    keys = {derived(secret, what) for secret in (b"a" * 32, b"b" * 32) for what in ("x", "y")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {KEY_BYTES}
