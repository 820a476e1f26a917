"""Many simultaneous requests at two processes over one Valkey: one job, whoever is asked first."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
import redis

from tests.e2e.service import LocalStorage, Service
from tests.faults.fleet import Fleet
from tests.origin import Origin
from tests.valkey import Valkey, valkey_server

# The two processes are started once for all tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/download/initiate"
POSTS = 200
#: Seconds for which a key is remembered.
DAY = 24 * 3600

_seeds = itertools.count()


@dataclass(frozen=True)
class Answer:
    status: int
    replayed: bool
    location: str
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two processes; their jobs lie in one Valkey, and all that they do is wait for an origin."""

    servers: list[Service]
    valkey: Valkey
    origin: Origin
    #: Jobs of earlier tests.
    before: set[str] = field(default_factory=set)

    def body(self) -> dict[str, Any]:
        """Ask for a job that nobody has asked for.

        It is under way for the whole test: one that has failed stands for nothing.
        """
        return {"source_urls": [self.origin.url(seed=next(_seeds), delay=600)]}

    async def post(self, server: int, body: Mapping[str, Any], key: str | None) -> Answer:
        """Ask the first server for an even number, the second for an odd one."""
        headers = {} if key is None else {"Idempotency-Key": key}
        client = self.servers[server % 2].client
        async with client.post(PATH, json=body, headers=headers) as response:
            return Answer(
                response.status,
                response.headers.get("Idempotent-Replayed") == "true",
                response.headers.get("Location", ""),
                await response.json(),
            )

    async def post_all(self, bodies: Sequence[Mapping[str, Any]], key: str | None) -> list[Answer]:
        """Send each body, to one server after the other, all at the same time."""
        return await asyncio.gather(*(self.post(n, body, key) for n, body in enumerate(bodies)))

    def redis(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.valkey.socket), decode_responses=True)

    def jobs(self) -> set[str]:
        """The jobs of this test, whoever made them."""
        with self.redis() as client:
            return set(client.zrange("{downloadd}:user:anonymous:jobs", 0, -1)) - self.before

    def assert_one_job(self, answers: Sequence[Answer]) -> None:
        """All answers are of the one job that there is."""
        assert Counter(answer.status for answer in answers) == {200: len(answers)}
        (job_id,) = self.jobs()
        assert {answer.body["jobId"] for answer in answers} == {job_id}
        assert {answer.location for answer in answers} == {f"/v1/download/status/{job_id}"}
        assert {answer.body["status"] for answer in answers} <= {"queued", "processing"}
        assert {answer.body["totalFiles"] for answer in answers} == {1}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    folder = tmp_path_factory.mktemp("e")
    with valkey_server() as valkey:
        async with Origin() as origin, Fleet(folder, valkey, LocalStorage(folder)) as fleet:
            servers = [await fleet.start() for _ in range(2)]
            yield Pair(servers=servers, valkey=valkey, origin=origin)


@pytest.fixture
def pair(both: Pair) -> Pair:
    both.before.update(both.jobs())
    return both


async def test_one_key_is_one_job(pair: Pair) -> None:
    """Of 200 posts with one key one makes the job, and 199 say that they give it again."""
    answers = await pair.post_all([pair.body()] * POSTS, "order 4711")
    pair.assert_one_job(answers)
    assert sum(answer.replayed for answer in answers) == POSTS - 1
    for server in range(2):
        other = await pair.post(server, pair.body(), "order 4711")
        assert (other.status, other.body["code"]) == (422, "idempotency_conflict")
    assert len(pair.jobs()) == 1


async def test_one_body_is_one_job(pair: Pair) -> None:
    """Of 200 posts of one body without a key one makes the job; nothing is said of a key."""
    answers = await pair.post_all([pair.body()] * POSTS, None)
    pair.assert_one_job(answers)
    assert not any(answer.replayed for answer in answers)


async def test_two_bodies_under_one_key(pair: Pair) -> None:
    """Where two bodies race for a key one wins it, and the other's posts are all refused."""
    bodies = [pair.body(), pair.body()]
    # Each server gets as many of either.
    answers = await pair.post_all([bodies[n // 2 % 2] for n in range(POSTS)], "raced for")
    assert Counter(answer.status for answer in answers) == {200: POSTS // 2, 422: POSTS // 2}
    winners = [answer for answer in answers if answer.status == 200]
    pair.assert_one_job(winners)
    assert sum(answer.replayed for answer in winners) == POSTS // 2 - 1
    assert len({n // 2 % 2 for n, answer in enumerate(answers) if answer.status == 200}) == 1


async def test_asked_again_before_the_first_answer(pair: Pair) -> None:
    """Requests that come while the first is not yet answered wait for it and get its job."""
    body = pair.body()
    pair.valkey.pause()
    try:
        posts = [asyncio.create_task(pair.post(n, body, "under way")) for n in range(20)]
        _, waiting = await asyncio.wait(posts, timeout=0.5)
        assert len(waiting) == len(posts)
    finally:
        pair.valkey.resume()
    answers = await asyncio.gather(*posts)
    pair.assert_one_job(answers)
    assert sum(answer.replayed for answer in answers) == len(answers) - 1


async def test_whoever_hung_up_is_given_the_job(pair: Pair) -> None:
    """A client that was cut off before its answer gets the job with its key at another process."""
    body = pair.body()
    pair.valkey.pause()
    try:
        cut_off = asyncio.create_task(pair.post(0, body, "cut off"))
        _, waiting = await asyncio.wait({cut_off}, timeout=0.5)
        assert waiting == {cut_off}
        cut_off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut_off
    finally:
        pair.valkey.resume()
    answers = [await pair.post(server, body, "cut off") for server in (1, 0)]
    pair.assert_one_job(answers)
    assert answers[1].replayed


async def test_a_key_is_kept_for_a_day(pair: Pair) -> None:
    """A key of 255 characters is remembered for 24 hours, under a name without it."""
    key, body = "k" * 255, pair.body()
    with pair.redis() as client:
        known = set(client.keys("{downloadd}:idempotency:*"))
        await pair.post_all([body] * 4, key)
        (name,) = set(client.keys("{downloadd}:idempotency:*")) - known
        assert key not in name
        assert DAY - 60 < client.ttl(name) <= DAY
        assert len(pair.jobs()) == 1
        client.delete(name)
    # After that it is as good as new.
    made = await pair.post(0, pair.body(), key)
    assert (made.status, made.replayed) == (200, False)
    assert len(pair.jobs()) == 2
