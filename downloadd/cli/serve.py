"""``downloadd serve``: the server, from its settings to its orderly end."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import resource
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import structlog
from aiohttp import web

from downloadd import __version__
from downloadd.app import POOL, SITE, begin_drain, create_app
from downloadd.cli.options import add_settings, config_path, overrides
from downloadd.config import Settings, load
from downloadd.config.sections import Telemetry
from downloadd.errors import DownloaddError
from downloadd.jobs.pool import Pool
from downloadd.telemetry import logs
from downloadd.telemetry.sentry import Reporter
from downloadd.web import keys
from downloadd.web.connection import MAX_CONNECTIONS, Runner

#: Seconds that running jobs have to end before they are given up to the queue.
DRAIN_SECONDS = 20.0
#: Seconds that requests under way have to be answered after that.
REQUEST_SECONDS = 2.0
#: Seconds after which a stop is over whatever still hangs: service managers kill after 30.
STOP_SECONDS = 26.5
#: Seconds for the report that it was so.
LAST_WORD_SECONDS = 0.5
#: Connections that may wait to be accepted: bursts of reconnecting browsers.
BACKLOG = 1024
#: Files that jobs, storage and state may have open, however many clients there are.
RESERVED_FILES = 1024
#: From glibc's malloc.h.
_M_ARENA_MAX = -8

_log = structlog.get_logger("downloadd.serve")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``serve`` to the command line."""
    parser = subparsers.add_parser("serve", help="run the server", description=__doc__)
    add_settings(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    Raises ``ConfigError`` for a wrong setting, and another ``DownloaddError``
    where the port or the data directory is taken.
    """
    settings = load(config_path(arguments), os.environ, overrides(arguments))
    with _logging(settings.telemetry) as reporter:
        _bound_arenas()
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            runner.run(_serve(settings, reporter))
    return 0


@contextmanager
def _logging(telemetry: Telemetry) -> Iterator[Reporter | None]:
    """Write logs, and send what are errors to Sentry where that is wanted."""
    dsn, release = telemetry.sentry_dsn, f"downloadd@{__version__}"
    reporter = Reporter.open(dsn, release=release) if dsn else None
    logs.configure(
        level=telemetry.log_level,
        log_format=telemetry.log_format,
        service=telemetry.service_name,
        report=reporter,
    )
    try:
        yield reporter
    except DownloaddError:
        raise  # is told in a line, without a trace
    except Exception:
        if reporter is not None:
            _log.exception("server.crashed")
        raise
    finally:
        if reporter is not None:
            reporter.close()


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop's loops where it can be had, else None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return loop


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """A server that accepts requests."""

    app: web.Application
    #: How clients reach it, without a slash at the end.
    base_url: str


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Serving]:
    """Run the server for the length of the context; port 0 takes any that is free.

    Leaving stops it: running jobs are given up to the queue at once unless
    the pool was drained before. Raises ``DownloaddError`` where the port or
    the data directory is taken.
    """
    with bind(settings.server.host, settings.server.port) as listener:
        app = create_app(settings, port=listener.getsockname()[1])
        runner = Runner(
            app,
            shutdown_timeout=REQUEST_SECONDS,
            on_refusal=app[keys.METRICS].refused,
            max_connections=_room_for_connections(),
        )
        try:
            await runner.setup()
            await web.SockSite(runner, listener, backlog=BACKLOG).start()
            yield Serving(app=app, base_url=app[SITE].base_url)
        finally:
            await runner.cleanup()


def _room_for_connections() -> int:
    """How many connections there may be: what files may be open but for those of jobs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    room = min(max(soft - RESERVED_FILES, soft // 2), MAX_CONNECTIONS)
    if room < MAX_CONNECTIONS:
        _log.warning("server.few_files", limit=soft, connections=room, wanted=MAX_CONNECTIONS)
    return room


def bind(host: str, port: int) -> socket.socket:
    """Bind a TCP socket, so that the port is known before anything depends on it."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
        try:
            # A port of ours in TIME_WAIT is no obstacle; a listener's still is.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    # A name that no DNS message could hold is a UnicodeError.
    except (OSError, UnicodeError) as exc:
        raise DownloaddError(
            f"Cannot listen on {host} port {port}: {getattr(exc, 'strerror', exc)}. "
            "Choose another with --host and --port.",
        ) from exc
    return listener


async def _serve(settings: Settings, reporter: Reporter | None) -> None:
    stop, at_once = asyncio.Event(), asyncio.Event()
    with _signals(stop, at_once):
        async with serving(settings) as server:
            _settle_memory()
            _announce(settings, server)
            await stop.wait()
            _log.info("server.stopping", grace=DRAIN_SECONDS)
            _end_by_force(reporter)
            begin_drain(server.app)
            await _drain(server.app[POOL], at_once)
    _log.info("server.stopped")


def _end_by_force(reporter: Reporter | None) -> None:
    """End the process when its stop takes too long: a storage, a Redis or a disk that hangs.

    Nothing is lost, as nothing is by kill -9; jobs are taken over when their leases lapse.
    """

    def end() -> None:
        _log.error("server.stop_forced", after=STOP_SECONDS)
        if reporter is not None:
            reporter.flush(LAST_WORD_SECONDS)
        os._exit(1)

    timer = threading.Timer(STOP_SECONDS, end)
    timer.daemon = True
    timer.start()


def _bound_arenas() -> None:
    """Let all threads share two heaps of glibc's, where it is glibc.

    By default each thread has one of its own, and each keeps the megabytes
    that once passed through it: some 20 MiB for a busy server.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _settle_memory() -> None:
    """Look for garbage cycles less often, and give back what only the start needed.

    Requests and jobs make few cycles but many objects; by default the
    collector runs after every 700 of them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _signals(stop: asyncio.Event, at_once: asyncio.Event) -> Iterator[None]:
    """Set ``stop`` on the first SIGTERM or SIGINT, ``at_once`` on the next."""

    def signalled() -> None:
        if stop.is_set():
            at_once.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # it ends already, in order


async def _drain(pool: Pool, at_once: asyncio.Event) -> None:
    """Let jobs end for a while, or give them up when ``at_once`` is set."""
    draining = asyncio.create_task(pool.drain(DRAIN_SECONDS))
    hurried = asyncio.create_task(at_once.wait())
    await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        await pool.drain(0)
    hurried.cancel()
    await draining


def _announce(settings: Settings, server: Serving) -> None:
    _log.info(
        "server.listening",
        url=server.base_url,
        version=__version__,
        auth=settings.auth.mode,
        storage=settings.storage.kind,
        state="redis" if settings.state.redis_url else "embedded valkey",
        dataDir=str(settings.state.data_dir),
    )
    if settings.auth.mode == "none":
        _log.warning("server.open", reason="auth.mode is none: everybody may use this server")
