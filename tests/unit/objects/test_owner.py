"""Whose a folder of archives is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from downloadd.objects.files import Folder


def test_a_full_disk_leaves_no_nameless_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next who asks becomes the owner, and nobody else after that."""
    folder = Folder(tmp_path)
    folder.prepare()

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def write(self, _: str) -> int:
            return 0

    real = Path.open

    def full(path: Path, mode: str = "r", *rest: object, **more: object) -> object:
        if mode[0] not in "xw":
            return real(path, mode, *rest, **more)  # type: ignore[call-overload]
        path.touch()
        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        patch.setattr(Path, "write_text", lambda path, *_, **__: full(path, "w").__exit__())  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="No space"):
            folder.belongs_to("mine/")
    assert folder.belongs_to("mine/")
    assert folder.belongs_to("mine/")
    assert not folder.belongs_to("another's/")
    assert not list(folder.uploads.iterdir())
    folder.close()
