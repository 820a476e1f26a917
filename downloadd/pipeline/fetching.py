"""One file on its way: requests, retries, resumption."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog

from downloadd.errors import (
    ChecksumMismatch,
    DownloaddError,
    FileTooLarge,
    SizeMismatch,
    SourceChanged,
    SourceTruncated,
)
from downloadd.model import FileEntry
from downloadd.pipeline.fetched import Fetched, Packed
from downloadd.pipeline.flight import Flight, Stopwatch
from downloadd.pipeline.intake import Intake
from downloadd.pipeline.leavings import Left
from downloadd.pipeline.notes import Origin
from downloadd.pipeline.services import FetchServices
from downloadd.ports import SourceBody
from downloadd.telemetry.tracing import Span
from downloadd.urls import host_of

log = structlog.get_logger(__name__)

#: A try that brought this much, and from which the next can go on, is no
#: failed try: a source that drops every connection still gets its file here.
_HEADWAY = 1 << 20
#: Seconds; a source that asks for a longer pause has given its last answer.
_LONGEST_PAUSE = 300.0


class FileFetch:
    """Fetches one file of a job. ``run`` once; then ``close`` or ``leave`` if it failed."""

    def __init__(
        self,
        services: FetchServices,
        job_id: str,
        entry: FileEntry,
        *,
        name: str,
        compress: bool,
        on_bytes: Callable[[int], None],
        on_fetched: Callable[[int], None],
        packed: Packed | None = None,
        left: Left | None = None,
    ) -> None:
        """Prepare. ``name`` is the one planned for the file.

        ``on_bytes`` hears of bytes that are here already or no more,
        ``on_fetched`` of those that come; both raise to stop the fetch.
        ``packed``: it was packed by an earlier run.
        ``left``: what such a run has left of it on the temporary disk.
        """
        self._services = services
        self._entry = entry
        self._on_bytes = on_bytes
        self._on_fetched = on_fetched
        self._path = services.spool.path(job_id, entry.index)
        self._host = host_of(entry.source.url)
        self._watch = Stopwatch(services.clock, self._host)
        self._intake = Intake(
            services,
            self._path,
            entry,
            name=name,
            compress=compress,
            packed=packed,
            left=left,
        )
        #: Requests made.
        self.attempts = 0

    @property
    def received(self) -> int:
        """Bytes of the file that are here."""
        return self._intake.received

    @property
    def size(self) -> int | None:
        """Size of the whole file, where somebody said it."""
        given = self._entry.source.size
        return given if given is not None else self._intake.origin.size

    @property
    def flight(self) -> Flight:
        """How it goes."""
        return self._watch.flight

    async def run(self) -> Fetched:
        """Fetch and verify the file; raises its final ``FileError``."""
        known = {"file.id": self._entry.label, "server.address": self._host}
        with self._services.tracing.call("source.fetch", known) as span:
            try:
                return await self._run(span)
            finally:
                span.set_attributes({"file.size": self.received, "file.attempts": self.attempts})

    async def _run(self, span: Span) -> Fetched:
        policy = self._services.policy
        self._check_bound(self._entry.source.size or 0)
        if (fetched := await self._go_on()) is not None:
            return fetched
        failures, reached = 0, self.received
        truncated: SourceTruncated | None = None
        while True:
            try:
                return await self._attempt()
            except DownloaddError as exc:
                if isinstance(exc, SourceTruncated):
                    truncated = exc
                # Bytes stitched from several answers may be those of two files.
                stitched = isinstance(exc, ChecksumMismatch) and self._intake.stitched
                headway = self._intake.origin.validator and self.received - reached >= _HEADWAY
                reached = max(reached, self.received)
                failures = 1 if headway else failures + 1
                if not (exc.transient or stitched) or failures > policy.retries:
                    if truncated is not None and isinstance(exc, SourceChanged):
                        # A file that is shorter than announced refuses the
                        # range that is missing: it looks changed, and is a lie.
                        raise truncated from exc
                    raise
                if isinstance(exc, (SourceChanged, ChecksumMismatch)):
                    await self.close()
                pause = self._pause(failures, exc)
                known = {"fileId": self._entry.label, "code": exc.code, "pause": round(pause, 2)}
                log.info("fetch.retry", attempt=self.attempts, **known)
                self._services.metrics.retried("fetch")
                span.add_event("retry", {"error.type": exc.code, "pause": pause})
            await self._services.clock.sleep(pause)

    async def _go_on(self) -> Fetched | None:
        """Take up what an earlier run has left; the file, where that is all of it."""
        fetched = await self._intake.salvage()
        if not self.received:
            self._intake.skip_stored()
        try:
            self._on_bytes(self.received)
        except DownloaddError:
            if fetched is not None:  # nobody will be given it
                await fetched.payload.leave(self._services.spool, self._path)
            raise
        if fetched is not None:
            self.attempts = fetched.attempts
        return fetched

    def _pause(self, failures: int, exc: DownloaddError) -> float:
        policy = self._services.policy
        backoff = min(policy.backoff * 2.0 ** (failures - 1), policy.longest_backoff)
        if exc.retry_after is not None and exc.retry_after > _LONGEST_PAUSE:
            raise exc
        # Full jitter would let a retry follow at once; half keeps a pause.
        return max(backoff * random.uniform(0.5, 1), exc.retry_after or 0)  # noqa: S311

    async def _attempt(self) -> Fetched:
        async with self._services.slots.hold(self._host):
            self.attempts += 1
            self._watch.ask()
            try:
                fetched = await self._request()
                return fetched.evolve(transfer=self._watch.transfer(fetched.size))
            finally:
                self._watch.rest()

    async def _request(self) -> Fetched:
        intake = self._intake
        if self.received and intake.origin.validator is None:
            await self.close()
        if self.attempts == 1 and not self.received:
            await self._hold_back()
        async with AsyncExitStack() as stack:
            # What is here already, if anything is, waits for this too.
            with intake.room.moving():
                answer = self._services.reader.open(
                    self._entry.source,
                    offset=self.received,
                    validator=intake.origin.validator,
                )
                body = await stack.enter_async_context(answer)
                await self._accept(body)
            with intake.room.moving():
                await self._receive(body)
                return await intake.finish(self.attempts)

    async def _hold_back(self) -> None:
        """Wait as a slow source would have us wait, in its slot; not where it has begun before."""
        if any(delay := self._services.policy.delay):
            await self._services.clock.sleep(random.uniform(*delay))  # noqa: S311 (no secret)

    async def _accept(self, body: SourceBody) -> None:
        if body.offset != self.received:
            await self.close()
        if body.offset:
            self._compare_size(body.size)
            self._intake.stitched = True
        else:
            self._intake.origin = Origin(
                size=body.size,
                validator=body.validator,
                file_name=body.file_name,
                content_type=body.content_type,
                modified=body.modified,
                digests=body.digests,
            )
        self._check_announced(body.size)

    def _compare_size(self, size: int | None) -> None:
        """A part of the file has come; either answer may be silent about the whole."""
        known = self._intake.origin.size
        if known is None:
            self._intake.origin = self._intake.origin.evolve(size=size)
        elif size not in (None, known):
            raise SourceChanged("The file changed while it was being fetched.")

    def _check_announced(self, size: int | None) -> None:
        given = self._entry.source.size
        if size is None:
            return
        if given is not None and size != given:
            raise SizeMismatch(f"The source announced {size} bytes where {given} were expected.")
        self._check_bound(size)

    def _check_bound(self, size: int) -> None:
        bound = self._services.policy.max_file_bytes
        if size > bound:
            raise FileTooLarge(f"The file is larger than the {bound} bytes allowed.")

    async def _receive(self, body: SourceBody) -> None:
        async for chunk in body.chunks():
            self._check_bound(self.received + len(chunk))
            self._on_fetched(len(chunk))
            self._watch.take(len(chunk))
            self._services.metrics.transferred("in", len(chunk))
            await self._intake.take(chunk)
        if self.received < (self._intake.origin.size or 0):
            # A part that did not say how long the whole is ended early.
            raise SourceTruncated("The source stopped before the end of the file.")

    async def close(self) -> None:
        """Drop the bytes that are here, and begin from nothing if ``run`` goes on."""
        lost = self.received
        await self._intake.close()
        self._on_bytes(-lost)

    async def leave(self) -> None:
        """Leave the bytes that are here for the job's next run."""
        await self._intake.leave()
