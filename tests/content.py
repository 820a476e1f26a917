"""Bytes of any size that can be computed anywhere: what ``tests.origin`` serves."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator

BLOCK = 1 << 20
_TEXT_PERIOD = 1 << 16
_WORDS = ("the", "of", "and", "to", "a", "in", "is", "file", "archive", "for", "was", "on", "it")


@functools.lru_cache(maxsize=64)
def _block(seed: int, kind: str) -> bytes:
    if kind == "text":
        # Longer than deflate's window, so that it shrinks like text does.
        words = random.Random(seed).choices(_WORDS, k=_TEXT_PERIOD // 2)
        return (" ".join(words).encode()[:_TEXT_PERIOD]) * (BLOCK // _TEXT_PERIOD)
    return hashlib.shake_256(b"%d" % seed).digest(BLOCK)


def blocks(seed: int, start: int, stop: int, kind: str = "random") -> Iterator[bytes]:
    """Yield the bytes of a file from ``start`` to ``stop``, at most 1 MiB at once.

    Each MiB begins with its own number, so that no two are alike.
    """
    block = memoryview(_block(seed, kind))
    while start < stop:
        number, at = divmod(start, BLOCK)
        end = min(BLOCK, at + stop - start)
        head = b"%015d\n" % number
        yield b"".join((head[at:end], block[max(at, len(head)) : end]))
        start += end - at


def content(
    seed: int, size: int, kind: str = "random", *, start: int = 0, stop: int | None = None
) -> bytes:
    """Return the bytes of ``/file/{seed}/{size}``, or those from ``start`` to ``stop``."""
    return b"".join(blocks(seed, start, size if stop is None else min(stop, size), kind))


@functools.lru_cache(maxsize=256)
def sha256(seed: int, size: int, kind: str = "random") -> str:
    """The SHA-256 of a file, lower-case hex."""
    digest = hashlib.sha256()
    for block in blocks(seed, 0, size, kind):
        digest.update(block)
    return digest.hexdigest()
