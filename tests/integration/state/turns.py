"""The queue's rules of turns, said once more: a model for tests."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(order=True)
class Place:
    """A job that waits, in comparison."""

    rank: int
    turn: int
    arrival: int
    user: str = field(compare=False)
    job_id: str = field(compare=False)


class Turns:
    """Within a rank users take turns; each one's jobs keep their order."""

    def __init__(self) -> None:
        self._places: list[Place] = []
        #: By rank, the turn that is on.
        self._on: dict[int, int] = {}
        #: Each user's last turn.
        self._last: dict[tuple[int, str], int] = {}
        self._arrivals = 0

    @property
    def order(self) -> list[str]:
        return [place.job_id for place in self._places]

    def put_behind(self, user: str, job_id: str, rank: int, other: str) -> None:
        """Put a job that was under way behind another that waits, or has its turn."""
        turns = [it.turn for it in self._places if it.job_id == other and it.rank == rank]
        least = max([self._on.get(rank, 0), *turns])
        self._last[rank, user] = max(least, self._last.get((rank, user), -1))
        self.put(user, job_id, rank)

    def put(self, user: str, job_id: str, rank: int = 0) -> None:
        on, last = self._on.get(rank, 0), self._last.get((rank, user), -1)
        turn = self._last[rank, user] = max(on, last + 1)
        self._arrivals += 1
        self._places.append(Place(rank, turn, self._arrivals, user, job_id))
        self._places.sort()

    def take(self) -> str:
        """The next job, whose turn is on then."""
        place = self._places[0]
        self._on[place.rank] = place.turn
        self.leave(place.job_id)
        return place.job_id

    def leave(self, job_id: str) -> None:
        """A job waits no longer; a turn that was its user's last is free again."""
        (gone,) = [place for place in self._places if place.job_id == job_id]
        self._places.remove(gone)
        own = (gone.rank, gone.user)
        if all((place.rank, place.user) != own for place in self._places):
            del self._last[own]
        elif self._last[own] == gone.turn:
            self._last[own] -= 1
        if not self._places:
            self._on.clear()
