"""One job from its files' addresses to a link, as a sequence of steps.

The generator is the coordinator: fetches and part uploads are tasks beside it,
and all of the job's state changes here, between two awaits. What it yields is
to be written down before it goes on, so a checkpoint always precedes what it
allows (a part sent, a payload dropped).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing

import structlog

from downloadd.errors import (
    DownloaddError,
    FileError,
    FileFailed,
    JobTooLarge,
    LayoutChanged,
    StorageCorrupt,
    UploadMissing,
)
from downloadd.model import Archive, Job, OnError, Stage
from downloadd.pipeline.checkpoint import Checkpoint
from downloadd.pipeline.fetched import Fetched, payload_of
from downloadd.pipeline.fetching import FileFetch
from downloadd.pipeline.leavings import Leavings
from downloadd.pipeline.packing import Packing
from downloadd.pipeline.services import RunServices
from downloadd.pipeline.snapshot import Step, snapshot
from downloadd.pipeline.uploading import Upload, usable
from downloadd.ports import ObjectMeta
from downloadd.tasks import stopped

log = structlog.get_logger(__name__)

#: Seconds between two steps that only tell of progress: a little more than lies
#: between two events (SPEC §5), or each second step would come too soon to be told.
_TICK = 0.26
_CRASHED = "The server failed while it worked on the file; its log says why."


class JobRun:
    """Works on one claimed job: ``steps``; ``discard`` or ``forsake`` if in vain; ``close``."""

    def __init__(
        self, services: RunServices, job: Job, checkpoint: str | None, *, namespace: str = ""
    ) -> None:
        """``namespace``: what the archive's key begins with where the storage is shared."""
        self._services = services
        self._namespace = namespace if services.objects.shared else ""
        self._clock = services.fetch.clock
        self._spool = services.fetch.spool
        self._job = job
        self.fetched = 0  # bytes that have come from sources, whatever became of them
        self._checkpoint = Checkpoint.parse(checkpoint) if checkpoint else None
        self._fetches: dict[asyncio.Task[Fetched], tuple[int, FileFetch]] = {}
        self._left = Leavings({}, self._spool.run)  # of an earlier run
        self._begin()

    def _begin(self) -> None:
        self._packing = Packing(self._job)
        self._upload = self._new_upload(self._key)
        self._pending = deque(self._packing.pending())
        self._bytes, self._dirty = 0, False
        self._failure: FileFailed | None = None
        self._told = self._clock.monotonic()

    def _new_upload(self, key: str) -> Upload:
        metadata = {"job-id": self._job.id, "files": str(self._job.total_files)}
        return Upload(
            self._services.objects,
            self._spool,
            self._services.fetch.metrics,
            self._services.fetch.tracing,
            key=key,
            meta=ObjectMeta(file_name=self._job.archive_name, metadata=metadata),
            layout=self._packing.layout,
            payloads=self._packing.payloads,
        )

    @property
    def _key(self) -> str:
        """Where this claim's archive goes: one of a worker taken for dead must not replace it."""
        attempt = f"-{self._job.attempts}" if self._job.attempts > 1 else ""
        return f"{self._namespace}{self._job.id}{attempt}.zip"

    # --- the steps ---

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Work until the archive is stored and signed: the last step's job says where.

        Raises ``JobError``, ``SpoolError`` and ``StorageError``.
        """
        # Not sooner: a run that ended here a moment ago may still be leaving them.
        self._left = await self._spool.adopt(self._job.id)
        try:
            if self._checkpoint is not None:
                await self._resume(self._checkpoint)
            await self._left.drop_all_but(self._pending)  # what has been stored since
            self._pending = self._left.first(self._pending, after=self._packing.again)
            async with aclosing(self._work()) as steps:
                async for step in steps:
                    yield step
        except (LayoutChanged, UploadMissing, StorageCorrupt) as exc:
            log.warning("job.start_over", reason=exc.message)
            # Who has lost the job to another hears of it here, before removing
            # what is in use. What was read is written again: what was made of
            # it may be half a layout.
            read = self._checkpoint.dump() if self._checkpoint else self._dump()
            yield self._step(self._stage(), checkpoint=read)
            await self.discard()
            await self.close()
            settled = self._packing.settled()
            self._checkpoint = None
            self._begin()
            self._packing.tell_again(settled)
            async with aclosing(self._work()) as steps:
                async for step in steps:
                    yield step

    async def _work(self) -> AsyncGenerator[Step, None]:
        while not self._stored:
            # What is fetched or stored is taken in here: it will move again.
            with self._spool.disk.busy():
                try:
                    await self._advance()
                except DownloaddError:
                    yield self._step(self._stage())  # what has settled before
                    raise
                if (step := self._due()) is not None:
                    yield step
                    if step.checkpoint is not None:
                        # Files wait for these to set disk free.
                        with self._spool.disk.moving():
                            await self._upload.saved(self._packing.spans())
                if self._failure is not None:
                    raise self._failure
                self._upload.cut()
            await self._wait()
        async with aclosing(self._finish()) as steps:
            async for step in steps:
                yield step

    async def _finish(self) -> AsyncGenerator[Step, None]:
        if self._upload.id is None:
            sha256: str | None = await self._upload.put()
        else:
            earlier = self._checkpoint.sha256 if self._checkpoint is not None else None
            sha256 = self._upload.sha256 or earlier
            yield self._step(Stage.FINISHING, checkpoint=self._dump(sha256))
            await self._upload.complete()
        archive = Archive(
            key=self._upload.key,
            size=self._packing.layout.size,
            sha256=sha256 or await self._upload.read_back(),
            file_name=self._job.archive_name,
        )
        link = await self._services.objects.sign(archive)
        step = self._step(Stage.FINISHING)
        yield step.evolve(job=step.job.evolve(archive=archive, link=link))

    @property
    def _stored(self) -> bool:
        """Whether nothing but finishing is left."""
        packed = self._packing.layout.sealed and not self._packing.again
        return packed and (self._upload.done if self._upload.id else not self._upload.wanted)

    async def _advance(self) -> None:
        await self._collect_fetches()
        if self._failure is not None:
            return
        self._start_fetches()
        packing, upload = self._packing, self._upload
        if not self._pending and not self._fetches and not packing.layout.sealed:
            packing.seal()
        if upload.wanted:
            await upload.begin()
            self._dirty = True
        self._dirty |= upload.collect() or upload.unwritten

    async def _wait(self) -> None:
        tasks: set[asyncio.Task[object]] = {*self._fetches, *self._upload.tasks}
        if tasks and not self._upload.wanted:
            await asyncio.wait(tasks, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)

    # --- files ---

    def _start_fetches(self) -> None:
        while self._pending and len(self._fetches) < self._services.per_job:
            index = self._pending.popleft()
            fetch = FileFetch(
                self._services.fetch,
                self._job.id,
                self._packing.files[index],
                name=self._packing.names.planned(index),
                compress=self._job.options.compress,
                on_bytes=self._count,
                on_fetched=self._take,
                packed=self._packing.again.get(index),
                left=self._left.take(index),
            )
            self._fetches[asyncio.create_task(fetch.run(), name=f"fetch-{index}")] = (index, fetch)

    def _take(self, size: int) -> None:
        self.fetched += size
        self._count(size)

    def _count(self, size: int) -> None:
        self._bytes += size
        bound = self._services.max_job_bytes
        if size > 0 and self._bytes > bound:  # what is given back raises nothing
            raise JobTooLarge(f"The files together are larger than the {bound} bytes allowed.")

    async def _collect_fetches(self) -> None:
        for task in [task for task in self._fetches if task.done()]:
            index, _ = self._fetches[task]
            try:
                fetched = task.result()
            except FileError as exc:
                await self._give_up(task, exc)
            except DownloaddError:
                raise
            except Exception:
                # A fault of ours that one file brings out is no reason to lose the others.
                log.exception("file.crashed", fileId=self._packing.files[index].label)
                await self._give_up(task, FileError(_CRASHED))
            else:
                del self._fetches[task]
                with self._services.fetch.tracing.step("archive.append"):
                    self._packing.add(index, fetched, now=self._clock.now())

    async def _give_up(self, task: asyncio.Task[Fetched], exc: FileError) -> None:
        index, fetch = self._fetches[task]
        await fetch.close()
        del self._fetches[task]
        entry = self._packing.fail(index, exc, attempts=fetch.attempts)
        self._services.fetch.metrics.file_failed(exc.code)
        log.warning("file.failed", fileId=entry.label, code=exc.code, error=exc.message)
        if self._job.options.on_error is OnError.FAIL and self._failure is None:
            self._failure = FileFailed(f"File {entry.label}: {exc.message}", code=exc.code)
            self._dirty = True

    # --- going on after an interruption ---

    async def _resume(self, checkpoint: Checkpoint) -> None:
        """Take up an earlier run's work where the storage still has it."""
        objects = self._services.objects
        self._upload = self._new_upload(checkpoint.key)
        self._upload.restore(checkpoint.upload_id, (), 0)  # known to ``discard`` from here on
        try:
            listed = await objects.list_parts(checkpoint.key, checkpoint.upload_id)
        except UploadMissing:
            if not await self._resume_completed(checkpoint):
                self._checkpoint = None
                self._upload = self._new_upload(self._key)
            return
        kept = usable(checkpoint, listed)
        self._upload.restore(checkpoint.upload_id, kept.parts, kept.reach)
        self._packing.restore(
            self._job.files,
            kept.entries,
            self._upload.missing,
            sealed=checkpoint.sealed,
            validators=checkpoint.validators,
        )
        self._pending = deque(self._packing.pending())
        self._bytes = self._packing.bytes_here()
        again = len(self._packing.again)
        log.info("job.resumed", parts=len(kept.parts), entries=len(kept.entries), again=again)

    async def _resume_completed(self, checkpoint: Checkpoint) -> bool:
        """Whether the upload is gone because it was completed before the interruption."""
        stored = await self._services.objects.head(checkpoint.key) if checkpoint.sealed else None
        if stored is None:
            return False
        packing = Packing(self._job)
        packing.restore(
            self._job.files, checkpoint.entries, lambda *_: None, sealed=True, validators={}
        )
        if stored.size != packing.layout.size:
            return False
        await packing.discard()
        self._packing = packing
        self._upload = self._new_upload(checkpoint.key)
        self._upload.restore_completed(checkpoint.upload_id, checkpoint.parts, stored.size)
        self._bytes = packing.bytes_here()
        self._pending.clear()
        return True

    # --- telling ---

    def _due(self) -> Step | None:
        if self._dirty:
            return self._step(self._stage(), checkpoint=self._dump())
        if self._clock.monotonic() - self._told >= _TICK:
            return self._step(self._stage())
        return None

    def _stage(self) -> Stage:
        if self._pending or self._fetches:
            return Stage.FETCHING
        return Stage.UPLOADING if self._upload.id is not None else Stage.ARCHIVING

    def _dump(self, sha256: str | None = None) -> str | None:
        if self._upload.id is None:
            return None
        return Checkpoint(
            key=self._upload.key,
            upload_id=self._upload.id,
            entries=tuple(self._packing.layout.entries),
            parts=tuple(self._upload.parts.values()),
            sealed=self._packing.layout.sealed,
            # With a checksum known, whatever is fetched anew is compared as a whole.
            validators=self._packing.validators() if sha256 is None else {},
            sha256=sha256,
        ).dump()

    def _step(self, stage: Stage, *, checkpoint: str | None = None) -> Step:
        self._dirty = False
        self._told = self._clock.monotonic()
        under_way = self._fetches.values()
        self._job = snapshot(self._job, stage, self._packing, under_way).evolve(
            bytes_fetched=self._bytes, updated_at=self._clock.now()
        )
        return Step(
            job=self._job,
            files=self._packing.take_changed(),
            checkpoint=checkpoint,
            flights={index: fetch.flight for index, fetch in under_way},
            transfers=self._packing.take_transfers(),
        )

    # --- the end ---

    async def discard(self) -> None:
        """Remove what the storage has of this archive, finished or not."""
        await self.stop()
        await self._upload.discard()
        if self._checkpoint is not None and self._checkpoint.upload_id != self._upload.id:
            # Not taken up yet, or given up: nobody else will remove it.
            await self._services.objects.abort(self._checkpoint.key, self._checkpoint.upload_id)

    async def forsake(self) -> None:
        """Leave the archive to another worker, but for what that one cannot know of."""
        await self.stop()
        await self._upload.forsake()

    async def close(self, *, keep: bool = False) -> None:
        """Stop whatever is under way and remove every temporary file.

        ``keep``: leave those that the job's next run can go on with.
        """
        await self.stop()
        if keep:
            await self._leave()
        else:
            await self._drop()
            await self._spool.clear(self._job.id)
            self._left.release()

    async def stop(self) -> None:
        """End whatever is under way."""
        await stopped(self._fetches)
        await self._upload.stop()

    def ending(self) -> AbstractContextManager[None]:
        """Whoever waits for disk goes on waiting until what the run holds is given back."""
        return self._spool.disk.busy()

    # Cancelled in between, a second call of these goes on where the first one ended.

    async def _drop(self) -> None:
        for task, (_, fetch) in list(self._fetches.items()):
            if (payload := payload_of(task)) is not None:
                await payload.discard()
            await fetch.close()
            del self._fetches[task]
        await self._packing.discard()

    async def _leave(self) -> None:
        for task, (index, _) in self._fetches.items():
            if (payload := payload_of(task)) is not None:
                self._packing.payloads[index] = payload
        # Small ones can be many, and whoever waits for disk is not to wait for them.
        await self._packing.leave(self._spool, in_memory=True)
        async with self._spool.keeping(self._job.id):
            for task, (_, fetch) in list(self._fetches.items()):
                await fetch.leave()
                del self._fetches[task]
            await self._packing.leave(self._spool, in_memory=False)
            self._left.release()
