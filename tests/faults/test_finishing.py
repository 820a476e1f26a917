"""``kill -9`` before and after every single step in which a job is finished."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.archives import MIB, Wanted, digests
from tests.e2e.service import LocalStorage, S3Storage, Service, eventually, s3_storage
from tests.faults.leftovers import assert_nothing_left
from tests.faults.observer import Observer
from tests.faults.trap import Trap, TrapProxy, When
from tests.gateway import Gateway
from tests.origin import Origin
from tests.valkey import Valkey, valkey_server

#: Servers that work side by side.
AT_ONCE = 4

#: What requests to S3 look like: a multipart upload's, and a small archive's.
CREATE = rb"POST /[^ ]+\?uploads"
LAST_PART = rb"PUT /[^ ]+partNumber=2[& ]"
LIST_PARTS = rb"GET /[^ ]+uploadId="
COMPLETE = rb"POST /[^ ]+\?uploadId="
PUT = rb"PUT /[^ /]+/[^ ?]+ "
HEAD = rb"HEAD /[^ /]+/[^ ]+ "
#: What writes to Redis look like: the first checkpoint, the last part's, the
#: finishing one, which knows the archive's SHA-256, and the end.
BEGUN = rb'"uploadId":"'
PART_STORED = rb'"parts":\[(\[[^]]*\],)*\[2,'
FINISHING = rb'"sealed":true,"validators":[^}]*,"sha256":"[0-9a-f]{64}"\}'
TERMINAL = rb"\$9\r\ncompleted\r\n"

S3, REDIS = "s3", "redis"

#: Where the module is that kills before a change in a folder.
AUDITED = Path(__file__).parent / "audited"


@dataclass(frozen=True, kw_only=True)
class Step:
    name: str
    #: Who the request goes to.
    to: str
    pattern: bytes
    #: Everything was stored by then: nothing is to be fetched again.
    stored: bool = False


REDIS_STEPS = (
    Step(name="first checkpoint", to=REDIS, pattern=BEGUN),
    Step(name="last part's checkpoint", to=REDIS, pattern=PART_STORED),
    Step(name="finishing checkpoint", to=REDIS, pattern=FINISHING, stored=True),
)
END = Step(name="terminal write", to=REDIS, pattern=TERMINAL)
STORED_END = Step(name="terminal write", to=REDIS, pattern=TERMINAL, stored=True)
MULTIPART_STEPS = (
    Step(name="CreateMultipartUpload", to=S3, pattern=CREATE),
    Step(name="last UploadPart", to=S3, pattern=LAST_PART),
    *REDIS_STEPS,
    Step(name="ListParts", to=S3, pattern=LIST_PARTS, stored=True),
    Step(name="CompleteMultipartUpload", to=S3, pattern=COMPLETE, stored=True),
    Step(name="HeadObject", to=S3, pattern=HEAD, stored=True),
    STORED_END,
)
PUT_STEPS = (
    Step(name="PutObject", to=S3, pattern=PUT),
    Step(name="HeadObject", to=S3, pattern=HEAD),
    END,
)


def large(origin: Origin, tag: str) -> list[Wanted]:
    """Files whose archive has two parts."""
    return [_file(origin, seed, 7 * MIB, tag) for seed in (1, 2, 3)]


def small(origin: Origin, tag: str) -> list[Wanted]:
    """Files whose archive is stored in one request."""
    return [_file(origin, seed, 50_000, tag) for seed in (1, 2, 3)]


def _file(origin: Origin, seed: int, size: int, tag: str) -> Wanted:
    url = origin.url(seed, size).replace(f"/{size}", f"/{size}/{tag}")
    return Wanted(url=url, seed=seed, size=size)


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with valkey_server(tcp=True) as server:
        yield server


class Case:
    """One server with its storage; whatever happens to it, its job ends well."""

    def __init__(
        self, tag: str, server: Service, storage: LocalStorage | S3Storage, observer: Observer
    ) -> None:
        self.tag = tag
        self.server = server
        self._storage = storage
        self._observer = observer

    async def begin(self, files: Sequence[Wanted]) -> str:
        return await self.server.initiate(
            {"files": [{"url": file.url, "name": str(file.seed)} for file in files]}
        )

    async def assert_ends(self, job_id: str, files: Sequence[Wanted]) -> None:
        """Start the server again: the job is completed once, and nothing is left of its making."""
        await self.server.start(AUDIT_FOLDER="")
        job = await self.server.ended(job_id)
        assert (job["status"], job["filesFailed"]) == ("completed", 0), job
        path = await self.server.archive(job, self.server.data_dir.parent)
        found = await asyncio.to_thread(digests, path)
        assert found == {str(file.seed): file.sha256 for file in files}
        assert self._observer.ends(job_id) == ["complete"]
        assert self._observer.active() == []
        await assert_nothing_left(self.server, self._storage)


class Cases:
    """Makes cases side by side, each with a name, and tells which did not go well."""

    def __init__(self, folder: Path, valkey: Valkey, gateway: Gateway | None = None) -> None:
        self._folder = folder
        self._valkey = valkey
        self._gateway = gateway
        self._free = asyncio.Semaphore(AT_ONCE)
        self._made = 0

    @asynccontextmanager
    async def case(
        self, redis_port: int, s3_port: int = 0, *, kill: int | None = None
    ) -> AsyncIterator[Case]:
        """Kill: before which change in the folder, if one is to be (``audited``)."""
        self._made += 1
        tag = f"case{self._made}"
        place = self._folder / tag
        place.mkdir()
        async with AsyncExitStack() as stack:
            environ = {} if kill is None else audit(place, kill)
            storage: LocalStorage | S3Storage = LocalStorage(place / "data")
            if self._gateway is not None:
                bucket = f"{tag}-{secrets.token_hex(8)}"
                storage = await stack.enter_async_context(s3_storage(self._gateway, bucket))
                environ = {**storage.environ, "S3_ENDPOINT": f"http://127.0.0.1:{s3_port}"}
            prefix = f"{{{place}}}:"
            server = Service(
                place / "data",
                {
                    "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
                    "DOWNLOADD_STATE_PREFIX": prefix,
                    "DOWNLOADD_JOBS_LEASE": "2",
                    **environ,
                },
            )
            await stack.enter_async_context(server)
            observer = stack.enter_context(Observer(self._valkey.url, prefix))
            yield Case(tag, server, storage, observer)

    async def trapped(self, step: Step, when: When, origin: Origin, files: Files) -> None:
        """Kill the server before or after a request."""
        port = self._gateway.port if self._gateway is not None else 0
        async with (
            self._free,
            TrapProxy(self._valkey.port) as redis,
            TrapProxy(port) as s3,
            self.case(redis.port, s3.port) as case,
        ):
            trap = Trap(pattern=re.compile(step.pattern), when=when, spring=case.server.kill)
            (s3 if step.to == S3 else redis).trap = trap
            wanted = files(origin, case.tag)
            job_id = await case.begin(wanted)
            await eventually(lambda: trap.sprung, what="the step was taken")
            await case.server.exited()
            await case.assert_ends(job_id, wanted)
            if step.stored:
                assert [origin.hits[_path(file)] for file in wanted] == [1] * len(wanted)

    async def audited(self, origin: Origin, files: Files, *, kill: int) -> list[str]:
        """Kill the server before this change, from 1, that it makes in its folder.

        Returns all changes that were begun; 0 kills at none.
        """
        async with self._free, self.case(self._valkey.port, kill=kill) as case:
            place = case.server.data_dir.parent
            # What the start does in the folder is not to be counted, now or ever.
            await eventually(lambda: _settled(place / "data" / "archives"))
            (place / "armed").touch()
            wanted = files(origin, case.tag)
            job_id = await case.begin(wanted)
            if kill:
                await case.server.exited()
            else:
                await case.server.ended(job_id)
                await case.server.kill()
            await case.assert_ends(job_id, wanted)
            return (place / "changes").read_text().splitlines()


def _settled(archives: Path) -> bool:
    """Whether the folder has its owner, whose name came by way of a draft."""
    return (archives / ".owner").exists() and not list((archives / ".uploads").iterdir())


def audit(place: Path, kill: int) -> dict[str, str]:
    """The settings of ``audited/sitecustomize.py``."""
    return {
        "PYTHONPATH": os.pathsep.join((str(AUDITED), os.environ.get("PYTHONPATH", ""))),
        "AUDIT_FOLDER": str(place / "data" / "archives"),
        "AUDIT_ARMED": str(place / "armed"),
        "AUDIT_LOG": str(place / "changes"),
        "AUDIT_KILL": str(kill),
    }


Files = Callable[[Origin, str], list[Wanted]]


def _path(file: Wanted) -> str:
    return file.url.partition("/file/")[1] + file.url.partition("/file/")[2]


async def all_well(cases: Mapping[str, asyncio.Task[None]]) -> None:
    """Wait for every case, and fail with what went wrong in which."""
    await asyncio.wait(cases.values())
    failed = []
    for name, task in cases.items():
        if (error := task.exception()) is not None:
            error.add_note(name)
            failed.append(error)
    if failed:
        raise BaseExceptionGroup("killed while finishing", failed)


async def every_step(cases: Cases, steps: Sequence[Step], origin: Origin, files: Files) -> None:
    await all_well(
        {
            f"{when.name.lower()} {step.name}": asyncio.create_task(
                cases.trapped(step, when, origin, files)
            )
            for step in steps
            for when in When
        }
    )


async def test_a_multipart_upload_in_s3(
    folder: Path, gateway: Gateway, valkey: Valkey, origin: Origin
) -> None:
    await every_step(Cases(folder, valkey, gateway), MULTIPART_STEPS, origin, large)


async def test_a_small_archive_in_s3(
    folder: Path, gateway: Gateway, valkey: Valkey, origin: Origin
) -> None:
    await every_step(Cases(folder, valkey, gateway), PUT_STEPS, origin, small)


async def test_a_large_archive_in_a_folder(folder: Path, valkey: Valkey, origin: Origin) -> None:
    """Writes to Redis; what happens in the folder is another test's."""
    await every_step(Cases(folder, valkey), (*REDIS_STEPS, STORED_END), origin, large)


async def test_a_small_archive_in_a_folder(folder: Path, valkey: Valkey, origin: Origin) -> None:
    await every_step(Cases(folder, valkey), (END,), origin, small)


@pytest.mark.parametrize("files", [large, small])
async def test_every_change_in_the_folder(
    folder: Path, valkey: Valkey, origin: Origin, files: Files
) -> None:
    """Before each file that is opened to be written, renamed or removed."""
    cases = Cases(folder, valkey)
    changes = await cases.audited(origin, files, kill=0)
    assert any(change.startswith("os.rename") for change in changes), changes
    await all_well(
        {
            f"before {number}, {change}": asyncio.create_task(
                cases.audited(origin, files, kill=number)
            )
            for number, change in enumerate(changes, start=1)
        }
    )
