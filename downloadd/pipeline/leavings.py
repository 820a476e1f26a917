"""What an earlier run of a job has left on the temporary disk, before anybody has looked at it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from downloadd.pipeline.budget import Reservation
from downloadd.pipeline.disk import remove_sync

log = structlog.get_logger(__name__)

#: The index of what is none of a job's files.
_NOBODYS = -1


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of one file; whoever takes it up gives the reservation back."""

    paths: tuple[Path, ...]
    reservation: Reservation


class Leavings:
    """What is left of a job's files that nobody has taken up yet."""

    def __init__(self, left: Mapping[int, Left], run: Callable[..., Awaitable[None]]) -> None:
        """``run`` makes a blocking call in a worker thread."""
        self._left = dict(left)
        self._run = run

    def take(self, index: int) -> Left | None:
        """What is left of this file, if anything is."""
        return self._left.pop(index, None)

    def first(self, indices: Iterable[int], *, after: Container[int]) -> deque[int]:
        """These files, those first of which something is left: it holds room until then.

        ``after`` those that are waited for.
        """
        return deque(sorted(indices, key=lambda it: it not in after and it not in self._left))

    async def drop_all_but(self, indices: Collection[int]) -> None:
        """Remove what nobody is going to take up."""
        for index in self._left.keys() - set(indices):
            left = self._left[index]
            await self._run(remove_sync, *left.paths)
            left.reservation.release()
            del self._left[index]

    def release(self) -> None:
        """Give the reservations back of what stays where it is."""
        while self._left:
            self._left.popitem()[1].reservation.release()


def files_in(folder: Path) -> dict[int, dict[Path, int]]:
    """What a job's folder holds of each of its files, by index, and the sizes.

    Nothing of what the disk does not let us see.
    """
    found: dict[int, dict[Path, int]] = defaultdict(dict)
    with _unseen(folder):
        for path in folder.glob("*"):
            index = path.name.partition(".")[0]
            with _unseen(path):
                found[int(index) if index.isdecimal() else _NOBODYS][path] = path.stat().st_size
    return found


@contextmanager
def _unseen(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        log.warning("spool.not_measured", path=path.name, error=exc.strerror)


def size_of(folder: Path) -> int:
    """Bytes in a job's files; 0 where there is none, or none that the disk lets us see."""
    return sum(sum(sizes.values()) for sizes in files_in(folder).values())
